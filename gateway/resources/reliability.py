"""Error rates, error codes, percentiles and speed by any cut, and over the whole window."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from typing import Any, ClassVar

import falcon

from gateway.access.authorize import ADMIN, RELIABILITY_READ
from gateway.cuts.answers import asked, head, window_of
from gateway.cuts.histograms import NAMES
from gateway.cuts.outcomes import OutcomesPoint, OutcomesReader
from gateway.cuts.parse import CutParams
from gateway.cuts.reading import Reading
from gateway.cuts.send import send_parts, wants_csv
from gateway.cuts.text import (
    Codes,
    Keys,
    csv_answer,
    figures,
    json_answer,
    outcomes_cells,
    outcomes_columns,
    outcomes_json,
)
from gateway.database import GatewayDatabase
from gateway.http.concurrency import ConcurrencyLimit
from shared.clock import Clock
from shared.cut_plan import Plan


class ReliabilityResource:
    """GET /orgs/{orgId}/reliability"""

    NEEDS: ClassVar = {"GET": RELIABILITY_READ}

    def __init__(self, database: GatewayDatabase, large: ConcurrencyLimit, clock: Clock) -> None:
        self._database = database
        self._large = large
        self._clock = clock

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str | None = None) -> None:
        """Answer with series and totals."""
        query = CutParams(req.query_string, "percentile", platform=org_id is None)
        percentile = query.params.choice("percentile", NAMES)
        cut = query.cut(org_id, minutes=True)
        with ExitStack() as opened:
            reading = Reading(cut, org_id, self._database, self._clock, opened)
            reliability = _Reliability(reading, percentile)

            def admit() -> None:
                reading.refuse_larger()
                opened.enter_context(self._large.admit(req))

            parts = reliability.csv() if wants_csv(req) else reliability.json()
            send_parts(req, resp, parts, opened, admit)


class PlatformReliabilityResource(ReliabilityResource):
    """GET /reliability: of all organisations."""

    NEEDS: ClassVar = {"GET": ADMIN}


class _Reliability:
    """The reliability of a reading, its parts in JSON or in CSV.

    Error codes are kept by model and by no other dimension: of points that are cut by one they are None.
    """

    def __init__(self, reading: Reading, percentile: str | None) -> None:
        self._reading = reading
        self._percentile = percentile
        self._keys = Keys(reading.plan)
        self._of_window: Codes | None = None

    def json(self) -> Iterator[bytes]:
        """Yield the answer."""
        before = self._before()
        given = {"percentile": self._percentile} if self._percentile else {}
        first = head(self._reading) | asked(self._reading, given)
        place = NAMES.index(self._percentile) if self._percentile else None
        kept = self._reading.plain_reliability(place)
        if kept is not None:
            plan = self._reading.plan.of_window(self._reading.plan.start, self._reading.plan.end)
            return json_answer(first, kept, ({"totals": self._totals(plan), **before} for _ in (0,)))
        reader = OutcomesReader(self._reading.plan)
        points = (
            outcomes_json(self._keys, point, codes, self._percentile) for point, codes in self._points(reader)
        )
        return json_answer(first, points, self._ends(reader, before))

    def csv(self) -> Iterator[bytes]:
        """Yield the series."""
        reader = OutcomesReader(self._reading.plan)
        lines = (
            [*self._keys.cells(point), *outcomes_cells(point.outcomes, codes, self._percentile)]
            for point, codes in self._points(reader)
        )
        return csv_answer([*self._keys.columns, *outcomes_columns(self._percentile)], lines)

    def _points(self, reader: OutcomesReader) -> Iterator[tuple[OutcomesPoint, Codes | None]]:
        points = reader.points(self._reading.reliability())
        if self._reading.plan.cut.dimension:
            for point in points:
                yield point, None
            return
        # Both come in one order, and there are no codes without a point of theirs.
        codes = groupby(self._reading.codes(), key=lambda row: row[:4])
        following = next(codes, None)
        for point in points:
            found: Codes = []
            if following is not None and following[0] == (
                point.bucket,
                point.other,
                point.org_id,
                point.model_id,
            ):
                found = _codes(following[1])
                following = next(codes, None)
            yield point, found
        self._of_window = _codes(following[1]) if following is not None else []

    def _ends(self, reader: OutcomesReader, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield {"totals": figures(reader.totals, self._of_window, self._percentile), **before}

    def _before(self) -> dict[str, Any]:
        """Return what the answer says of the window before, nothing unless it was asked for."""
        plan = self._reading.plan.before
        if plan is None:
            return {}
        return {"previous": {**window_of(plan), "totals": self._totals(plan)}}

    def _totals(self, plan: Plan) -> dict[str, Any]:
        """Return what is said of a window of its own."""
        reader = OutcomesReader(plan)
        for _ in reader.points(self._reading.reliability(plan)):
            pass
        by_dimension = self._reading.plan.cut.dimension
        codes = None if by_dimension else _codes(self._reading.codes(plan), of_window=True)
        return figures(reader.totals, codes, self._percentile)


def _codes(rows: Any, *, of_window: bool = False) -> Codes:
    return [{"errorCode": row[4], "count": int(row[5])} for row in rows if not of_window or row[0] is None]
