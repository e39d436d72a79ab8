"""Usage and spend by any cut, and their totals."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import falcon
import msgspec

from gateway.access.authorize import ADMIN, ALL_ORGS, USAGE_READ
from gateway.cuts.answers import asked, head, window_of
from gateway.cuts.parse import CutParams
from gateway.cuts.reading import Reading
from gateway.cuts.send import send_parts, wants_csv
from gateway.cuts.text import USAGE_COLUMNS, Keys, csv_answer, json_answer, usage_json
from gateway.database import GatewayDatabase
from gateway.http.concurrency import ConcurrencyLimit
from gateway.resources.freshness import FreshnessReader
from shared.clock import Clock
from shared.usage_sums import SUMS, Sums, UsagePoint, add, nothing, texts, total, usage_points


class UsageResource:
    """GET /orgs/{orgId}/usage"""

    NEEDS: ClassVar = {"GET": USAGE_READ}

    def __init__(
        self, database: GatewayDatabase, freshness: FreshnessReader, large: ConcurrencyLimit, clock: Clock
    ) -> None:
        self._database = database
        self._freshness = freshness
        self._large = large
        self._clock = clock

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str | None = None) -> None:
        """Answer with series, totals and freshness."""
        cut = CutParams(req.query_string, platform=org_id is None).cut(org_id, minutes=False)
        # Before the sums: they may then show more than this promises, never less.
        freshness = self._freshness.summary(ALL_ORGS if org_id is None else org_id)
        with ExitStack() as opened:
            reading = Reading(cut, org_id, self._database, self._clock, opened)
            usage = _Usage(reading, {"freshness": freshness.shown()})

            def admit() -> None:
                if reading.plan.is_plain and not wants_csv(req):
                    reading.refuse_larger()
                opened.enter_context(self._large.admit(req))

            send_parts(req, resp, usage.csv() if wants_csv(req) else usage.json(), opened, admit)


class PlatformUsageResource(UsageResource):
    """GET /usage: of all organisations."""

    NEEDS: ClassVar = {"GET": ADMIN}


class _Usage:
    """The usage of a reading: its parts in JSON or in CSV, and totals that grow as they are made."""

    def __init__(self, reading: Reading, tail: dict[str, Any]) -> None:
        self._reading = reading
        self._tail = tail
        self._totals = nothing()
        self._written: list[Sequence[Any]] = []
        self._keys = Keys(reading.plan)

    def json(self) -> Iterator[bytes]:
        """Yield the answer."""
        before = self._before()
        buckets = self._reading.usage_json()
        points = self._grouped() if buckets is None else self._as_written(buckets)
        return json_answer(head(self._reading), points, self._ends(before))

    def csv(self) -> Iterator[bytes]:
        """Yield the series."""
        lines = (
            [*self._keys.cells(point), *texts(point.sums)]
            for point in usage_points(self._reading.usage(), self._reading.plan)
        )
        return csv_answer([*self._keys.columns, *USAGE_COLUMNS], lines)

    def _as_written(self, buckets: Iterator[tuple[Any, ...]]) -> Iterator[bytes]:
        for _size, points, *sums in buckets:
            self._written.append(sums)
            yield points
        self._totals = total(self._written)

    def _grouped(self) -> Iterator[bytes]:
        for point in usage_points(self._reading.usage(), self._reading.plan):
            add(self._totals, point.sums)
            yield usage_json(self._keys, point)

    def _ends(self, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield {"totals": _shown(self._totals), **self._tail, **asked(self._reading, before)}

    def _before(self) -> dict[str, Any]:
        """Return what the answer says of the window before, nothing unless it was asked for."""
        plan = self._reading.plan.before
        if plan is None:
            return {}
        points: list[UsagePoint] = list(usage_points(self._reading.usage(plan), plan))
        return {"previous": {**window_of(plan), "totals": _shown(points[0].sums if points else nothing())}}


def _shown(sums: Sums) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(text.encode()) for name, text in zip(SUMS, texts(sums), strict=True)}
