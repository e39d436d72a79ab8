"""What the answers to a cut have in common, whatever it asks for."""

from collections.abc import Mapping
from typing import Any

from gateway.cuts.reading import Reading
from gateway.http.answers import rfc3339_or_none
from shared.cut import MEMBERS
from shared.cut_plan import Plan
from shared.zones import local_text


def head(reading: Reading) -> dict[str, Any]:
    """Return what an answer begins with: whose it is, and the window as it was widened."""
    cut, plan = reading.plan.cut, reading.plan
    of = {"orgId": cut.org_ids[0]} if reading.org_id is not None and cut.org_ids else {}
    return {
        **of,
        **window_of(plan),
        "granularity": cut.granularity,
    }


def asked(reading: Reading, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an answer repeats of its question, as far as it was said."""
    cut = reading.plan.cut
    found: dict[str, Any] = {}
    if cut.tz.key != "UTC":
        found["timeZone"] = cut.tz.key
    filters = {
        "orgId": None if reading.org_id is not None else reading.org_filter,
        "modelId": cut.model_ids,
        MEMBERS.get(cut.dimension, cut.dimension): cut.values,
    }
    for name, values in filters.items():
        if values is not None:
            found[name] = values[0] if len(values) == 1 else list(values)
    for name, since in (
        ("completeSince", reading.plan.complete_since()),
        ("detailsCompleteSince", reading.plan.details_complete_since()),
    ):
        if since is not None:
            found[name] = rfc3339_or_none(since)
    return found | dict(given)


def window_of(plan: Plan) -> dict[str, str]:
    """Return how an answer says which window a plan is of."""
    return {"start": local_text(plan.start, plan.cut.tz), "end": local_text(plan.end, plan.cut.tz)}
