"""How far an organisation's numbers lag behind its events; see analytics.freshness_status."""

import math
from typing import ClassVar, TypeVar

import falcon
import msgspec

from gateway.access.authorize import ALL_ORGS, USAGE_READ
from gateway.database import GatewayDatabase
from gateway.http.answers import rfc3339_or_none, send
from gateway.http.params import Params
from gateway.resources.freshness_cache import FreshnessCache
from shared.buckets import rfc3339
from shared.clock import Clock
from shared.postgres import Cursor, Row, fetch_rows
from shared.statements import load_statements

_SQL = load_statements("freshness.sql")
MAX_ENTRIES = 1_000
"""Entries of an answer, those with the newest events. The cache holds no more either."""

T = TypeVar("T", "Summary", "Freshness")


class Summary(msgspec.Struct, rename="camel"):
    """All models of an organisation in one; `unknown` and without numbers where there were no events."""

    org_id: str
    status: str
    lag_seconds: float | None
    last_event_at: str | None
    last_rollup_at: str | None

    def shown(self) -> dict[str, object]:
        """Return what the usage answer says of it."""
        return {
            "status": self.status,
            "lagSeconds": self.lag_seconds,
            "lastEventAt": self.last_event_at,
            "lastRollupAt": self.last_rollup_at,
        }


class Entry(msgspec.Struct, rename="camel"):
    """One model. Times are RFC 3339; lastRollupAt is null before the first rollup."""

    model_id: str
    last_event_at: str
    last_rollup_at: str | None
    lag_seconds: float
    status: str


class Freshness(msgspec.Struct, rename="camel"):
    """An organisation's freshness as of an instant; status and lag are those of all models."""

    org_id: str
    status: str
    lag_seconds: float | None
    as_of: str
    truncated: bool
    entries: list[Entry]


class FreshnessReader:
    """GatewayDatabase freshness from the cache or the database, at most as old as the cache allows."""

    def __init__(self, database: GatewayDatabase, cache: FreshnessCache, clock: Clock) -> None:
        self._database = database
        self._cache = cache
        self._clock = clock

    def summary(self, org_id: str) -> Summary:
        """Return the freshness of an organisation, or of ALL_ORGS, in one. Raises DatabaseUnavailable."""
        return self._cached("summary", org_id, Summary) or self._keep("summary", self._summed_up(org_id))

    def of_org(self, org_id: str) -> Freshness:
        """Return an organisation's freshness by model. Raises DatabaseUnavailable."""
        return self._cached("models", org_id, Freshness) or self._keep("models", self._by_model(org_id))

    def _cached(self, kind: str, org_id: str, form: type[T]) -> T | None:
        text = self._cache.get(kind, org_id)
        if text is None:
            return None
        try:
            found = msgspec.json.decode(text, type=form)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors, and not its only ones
            return None  # written by another release, or damaged
        return found if found.org_id == org_id else None

    def _keep(self, kind: str, found: T) -> T:
        self._cache.put(kind, found.org_id, msgspec.json.encode(found))
        return found

    def _summed_up(self, org_id: str) -> Summary:
        parameters = {"org_id": org_id, "as_of": self._clock()}
        if org_id == ALL_ORGS:
            [row] = self._database.of_all().rows(_SQL["summary"], parameters | {"org_id": None})
        else:
            [row] = self._database.of(org_id).rows(_SQL["summary"], parameters)
        return _summary(org_id, row)

    def _by_model(self, org_id: str) -> Freshness:
        now = self._clock()
        parameters = {"org_id": org_id, "as_of": now, "max_entries": MAX_ENTRIES + 1}

        def read(cur: Cursor) -> tuple[list[Row], list[Row]]:
            statements = _SQL["summary"], _SQL["entries_of_org"]
            summed_up, rows = (fetch_rows(cur, statement, parameters) for statement in statements)
            return summed_up, rows

        [summed_up], rows = self._database.of(org_id).snapshot(read)
        summary = _summary(org_id, summed_up)
        return Freshness(
            org_id=org_id,
            status=summary.status,
            lag_seconds=summary.lag_seconds,
            as_of=rfc3339(now),
            truncated=len(rows) > MAX_ENTRIES,
            entries=[
                Entry(
                    model_id=row["model_id"],
                    last_event_at=rfc3339(row["last_event_at"]),
                    last_rollup_at=rfc3339_or_none(row["last_rollup_at"]),
                    lag_seconds=_floor(row["lag_seconds"]),
                    status=row["status"],
                )
                for row in rows[:MAX_ENTRIES]
            ],
        )


def _summary(org_id: str, row: Row) -> Summary:
    lag_seconds = row["lag_seconds"]
    return Summary(
        org_id=org_id,
        status=row["status"] or "unknown",
        lag_seconds=None if lag_seconds is None else _floor(lag_seconds),
        last_event_at=rfc3339_or_none(row["last_event_at"]),
        last_rollup_at=rfc3339_or_none(row["last_rollup_at"]),
    )


class FreshnessResource:
    """GET /orgs/{orgId}/freshness"""

    NEEDS: ClassVar = {"GET": USAGE_READ}

    def __init__(self, freshness: FreshnessReader) -> None:
        self._freshness = freshness

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str) -> None:
        """Answer with the status and one entry a model."""
        Params(req.query_string).check()
        send(req, resp, self._freshness.of_org(org_id))


def _floor(seconds: float) -> float:
    """Cut a lag to milliseconds, so that none shows as having reached a threshold that it has not."""
    return math.floor(seconds * 1000) / 1000
