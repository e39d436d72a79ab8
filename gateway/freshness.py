"""How far an organisation's numbers lag behind its events; see analytics.freshness_status."""

import math
from typing import ClassVar

import falcon
import msgspec

from gateway.answers import send, zulu
from gateway.authorize import USAGE_READ
from gateway.freshness_cache import FreshnessCache
from gateway.params import Params
from gateway.reads import Reads
from shared.buckets import rfc3339
from shared.clock import Clock
from shared.statements import load_statements

_SQL = load_statements("freshness.sql")
_BEST_FIRST = ("fresh", "stale", "delayed")


class Entry(msgspec.Struct, rename="camel"):
    """One model. Times are RFC 3339; lastRollupAt is null before the first rollup."""

    model_id: str
    last_event_at: str
    last_rollup_at: str | None
    lag_seconds: float
    status: str


class Freshness(msgspec.Struct, rename="camel"):
    """An organisation's freshness as of an instant; `unknown` without events."""

    org_id: str
    status: str
    lag_seconds: float | None
    as_of: str
    entries: list[Entry]

    def summary(self) -> dict[str, object]:
        """Return what the usage answer says of it."""
        events = [entry.last_event_at for entry in self.entries]
        rollups = [entry.last_rollup_at for entry in self.entries if entry.last_rollup_at]
        return {
            "status": self.status,
            "lagSeconds": self.lag_seconds,
            "lastEventAt": max(events, default=None),
            "lastRollupAt": max(rollups, default=None),
        }


class FreshnessReader:
    """Reads freshness from the cache or the database."""

    def __init__(self, reads: Reads, cache: FreshnessCache, clock: Clock) -> None:
        self._reads = reads
        self._cache = cache
        self._clock = clock

    def of_org(self, org_id: str) -> Freshness:
        """Return an organisation's freshness, at most as old as the cache allows.

        Raises DatabaseUnavailable.
        """
        cached = self._cached(org_id)
        if cached is not None:
            return cached
        found = self._computed(org_id)
        self._cache.put(org_id, msgspec.json.encode(found))
        return found

    def _cached(self, org_id: str) -> Freshness | None:
        text = self._cache.get(org_id)
        if text is None:
            return None
        try:
            found = msgspec.json.decode(text, type=Freshness)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors, and not its only ones
            return None  # written by another release, or damaged
        return found if found.org_id == org_id else None

    def _computed(self, org_id: str) -> Freshness:
        now = self._clock()
        entries = [
            Entry(model, rfc3339(last_event), zulu(last_rollup), _floor(lag), status)
            for model, last_event, last_rollup, lag, status in self._reads.rows(
                _SQL["freshness_of_org"], {"org_id": org_id, "as_of": now}
            )
        ]
        return Freshness(
            org_id=org_id,
            status=max((entry.status for entry in entries), key=_BEST_FIRST.index, default="unknown"),
            lag_seconds=max((entry.lag_seconds for entry in entries), default=None),
            as_of=rfc3339(now),
            entries=entries,
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
