"""What the answers to a cut have in common, whatever it asks for."""

from collections.abc import Mapping
from typing import Any

from gateway.cuts.reading import Reading
from gateway.http.answers import rfc3339_or_none
from shared.cut import MEMBERS
from shared.zones import local_text, previous


def head(reading: Reading) -> dict[str, Any]:
    """Return what an answer begins with: whose it is, and the window as it was widened."""
    cut, plan = reading.plan.cut, reading.plan
    of = {"orgId": cut.org_ids[0]} if reading.org_id is not None and cut.org_ids else {}
    return {
        **of,
        "start": local_text(plan.start, cut.tz),
        "end": local_text(plan.end, cut.tz),
        "granularity": cut.granularity,
    }


def asked(reading: Reading, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer repeats of its question, as far as it was said."""
    cut = reading.plan.cut
    found: dict[str, Any] = {}
    if cut.tz.key != "UTC":
        found["timeZone"] = cut.tz.key
    if cut.model_ids is not None:
        found["modelId"] = cut.model_ids[0] if len(cut.model_ids) == 1 else list(cut.model_ids)
    if cut.values is not None:
        name = MEMBERS.get(cut.dimension, cut.dimension)
        found[name] = cut.values[0] if len(cut.values) == 1 else list(cut.values)
    since = reading.complete_since()
    if since is not None:
        found["completeSince"] = rfc3339_or_none(since)
    return found | dict(given)


def window_before(reading: Reading) -> tuple[Any, dict[str, str]]:
    """Return when the window of the same length before a reading's begins, and how an answer says so."""
    cut, plan = reading.plan.cut, reading.plan
    start = previous(plan.start, plan.end, cut.tz)
    return start, {"start": local_text(start, cut.tz), "end": local_text(plan.start, cut.tz)}
