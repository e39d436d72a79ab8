"""How large an answer may be; what is larger is refused with the sizes that are possible."""

from gateway.http.params import Window
from gateway.http.problems import Fault, Problem

MAX_POINTS = 200_000
"""Points of a series in one answer."""

MAX_BINS = 4_000_000
"""Entries of latency histograms that one answer may merge: 400 days of 50 models with 200 latencies each."""

MAX_LIGHT_POINTS = 20_000
MAX_LIGHT_BINS = 800_000
"""Answers up to this size need no slot."""


def refuse_larger(window: Window, model_id: str | None, *, points: int, bins: int = 0) -> None:
    """Raise Problem 400 for an answer of more points or histogram bins than one may have."""
    excess = [
        f"{count:,} {what}, more than the {limit:,} that one answer may have"
        for count, limit, what in ((points, MAX_POINTS, "points"), (bins, MAX_BINS, "histogram bins"))
        if count > limit
    ]
    if not excess:
        return
    ways = ["a shorter window"]
    if model_id is None:
        ways.append("a modelId")
    if window.granularity != "day":
        ways.append(f"granularity={'hour' if window.granularity == 'minute' else 'day'}")
    reason = f"this would be {' and '.join(excess)}; fewer come of {' or '.join(ways)}"
    raise Problem.invalid([Fault(field="", reason=reason)])


def is_light(*, points: int, bins: int = 0) -> bool:
    """Tell whether an answer is small enough to be made beside any number of others."""
    return points <= MAX_LIGHT_POINTS and bins <= MAX_LIGHT_BINS
