"""What usage and reliability can be cut by, and the values in use, for menus."""

from datetime import timedelta
from typing import Any, ClassVar

import falcon
import msgspec

from gateway.access.authorize import USAGE_READ
from gateway.cuts.reading import kept_dimensions
from gateway.database import GatewayDatabase
from gateway.http.answers import rfc3339_or_none, send
from gateway.http.params import Params
from gateway.http.problems import Fault, Problem
from shared.buckets import rfc3339, widen
from shared.cut import MAX_WINDOWS, member
from shared.statements import load_statements

_SQL = load_statements("cuts.sql")
_MODEL = "model"


class DimensionsResource:
    """GET /orgs/{orgId}/dimensions"""

    NEEDS: ClassVar = {"GET": USAGE_READ}

    def __init__(self, database: GatewayDatabase) -> None:
        self._database = database

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str) -> None:
        """Answer with the dimensions that are kept."""
        Params(req.query_string).check()
        kept = [each for each in kept_dimensions(self._database) if each.groupable]
        dimensions = [
            {
                "name": each.name,
                "member": member(each.name),
                "keepsHours": each.keeps_hours,
                "hoursKeptDays": each.hours_kept and each.hours_kept // timedelta(days=1),
                "completeSince": rfc3339_or_none(each.complete_since),
            }
            for each in kept
        ]
        send(req, resp, {"orgId": org_id, "dimensions": dimensions})


class DimensionValuesResource:
    """GET /orgs/{orgId}/dimensions/{name}/values"""

    NEEDS: ClassVar = {"GET": USAGE_READ}

    def __init__(self, database: GatewayDatabase) -> None:
        self._database = database

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str, name: str) -> None:
        """Answer with the values in use, those with the most calls first."""
        params = Params(req.query_string, "start", "end", "prefix", "limit")
        start, end = params.time("start"), params.time("end")
        params.fits(start, end, "day", MAX_WINDOWS)
        prefix = params.text("prefix", max_length=200)
        limit = params.whole_number("limit", min_value=1, max_value=200, default=50)
        params.check()
        assert start is not None  # noqa: S101  check() has raised otherwise
        assert end is not None  # noqa: S101
        start, end = _widened(start, end)
        rows = self._database.of(org_id).rows(
            _SQL["values"],
            {
                "org_id": org_id,
                **self._dimension(name),
                "start": start,
                "end": end,
                "prefix": prefix,
                "limit": limit,
            },
        )
        values: list[dict[str, Any]] = [
            {
                "value": row["name"],
                "invocations": _number(row["invocations"]),
                "costEstimateCents": _number(row["cost_estimate_cents"]),
            }
            for row in rows
        ]
        answer = {"orgId": org_id, "dimension": name, "start": rfc3339(start), "end": rfc3339(end)}
        send(req, resp, answer | {"values": values})

    def _dimension(self, name: str) -> dict[str, object]:
        kept = {
            each.name: each for each in kept_dimensions(self._database) if each.groupable or not each.name
        }
        found = kept.get("" if name == _MODEL else name or "?")
        if found is None:
            known = ", ".join([_MODEL, *(each.name for each in kept.values() if each.groupable)])
            raise Problem.invalid(
                [Fault(field="name", reason=f"is not kept as a dimension; there are {known}")]
            )
        # The newest hours may not be in their day yet.
        return {"dimension": found.name, "hours_from": found.days_until or "infinity"}


def _widened(start: Any, end: Any) -> tuple[Any, Any]:
    try:
        return widen(start, end, "day")
    except OverflowError:
        raise Problem.invalid([Fault(field="end", reason="is too late")]) from None


def _number(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())
