"""Error rates, error codes and latency percentiles by minute, hour or day, and over the whole window."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from typing import Any, ClassVar

import falcon
import msgspec

from gateway.access.authorize import RELIABILITY_READ
from gateway.database import GatewayDatabase
from gateway.http.answers import encode, send
from gateway.http.params import Params
from gateway.http.sizes import is_light, refuse_larger
from gateway.http.slots import Slots
from shared.buckets import rfc3339
from shared.latency_histogram import PERCENTILES, add, percentiles_ms
from shared.postgres import Cursor, Row, fetch_rows
from shared.statements import load_statements
from shared.usage_event.schema import FAILED_STATUSES

_SQL = load_statements("reliability.sql")
_NAMES = tuple(PERCENTILES)
_QUANTILES = tuple(PERCENTILES.values())
_ALWAYS = ("p50", "p95", "p99")

Codes = list[dict[str, object]]
Figures = dict[str, Any]

_SUMS = ("invocations", *(f"status_{status}" for status in FAILED_STATUSES))

# Reading the largest answer, its histograms included, takes some seconds.
_LIMIT_SECONDS = 30.0


class ReliabilityResource:
    """GET /orgs/{orgId}/reliability"""

    NEEDS: ClassVar = {"GET": RELIABILITY_READ}

    def __init__(self, database: GatewayDatabase, large: Slots) -> None:
        self._database = database
        self._large = large

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str) -> None:
        """Answer with series, totals and error codes."""
        params = Params(req.query_string, "start", "end", "granularity", "modelId", "percentile")
        model_id = params.text("modelId", max_length=200)
        percentile = params.choice("percentile", _NAMES)
        window = params.window(("minute", "hour", "day"))
        parameters = {"org_id": org_id, "start": window.start, "end": window.end, "model_id": model_id}
        answer: dict[str, Any] = {
            "orgId": org_id,
            "start": rfc3339(window.start),
            "end": rfc3339(window.end),
            "granularity": window.granularity,
        }
        answer |= {"modelId": model_id} if model_id is not None else {}
        answer |= {"percentile": percentile} if percentile else {}
        with ExitStack() as opened:
            held = None
            [size] = self._database.rows(_SQL[f"size_{window.granularity}"], parameters)
            refuse_larger(window, model_id, **size)
            if not is_light(**size):
                held = opened
                opened.enter_context(self._large.slot(req))

            def read(cur: Cursor) -> tuple[list[msgspec.Raw], Figures]:
                cur.execute(_SQL[window.granularity], parameters)
                cur.execute(_SQL[f"error_codes_{window.granularity}"], parameters)
                return _series(cur, percentile)

            series, totals = self._database.snapshot(read, time_limit_seconds=_LIMIT_SECONDS)
            send(req, resp, answer | {"series": series, "totals": totals}, held)


def _series(cur: Cursor, percentile: str | None) -> tuple[list[msgspec.Raw], Figures]:
    """Return the points of the open cursors as JSON, and the totals over them.

    Only the texts are kept of each point: with its histogram it would take a hundred times as much.
    """
    series: list[msgspec.Raw] = []
    totals = Tally()
    codes = groupby(_fetched(cur, "fetch_codes"), key=itemgetter("bucket_start", "model_id"))
    next_codes = next(codes, None)
    for row in _fetched(cur, "fetch_points"):
        tally = Tally()
        tally.add(row)
        totals.add(row)
        found = []
        if next_codes is not None and next_codes[0] == (row["bucket_start"], row["model_id"]):
            found = _codes(next_codes[1])
            next_codes = next(codes, None)
        point = {"bucketStart": rfc3339(row["bucket_start"]), "modelId": row["model_id"]}
        series.append(msgspec.Raw(encode(point | tally.figures(found, percentile))))
    of_window = _codes(next_codes[1]) if next_codes is not None else []
    return series, totals.figures(of_window, percentile)


def _fetched(cur: Cursor, statement: str) -> Iterator[Row]:
    while rows := fetch_rows(cur, _SQL[statement]):
        yield from rows


def _codes(rows: Iterable[Row]) -> Codes:
    return [{"errorCode": row["error_code"], "count": row["events"]} for row in rows]


class Tally:
    """Sums of one point or of many: calls by outcome, and their latencies as one histogram."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(_SUMS, 0)
        self._histogram: dict[int, int] = {}

    def add(self, row: Row) -> None:
        """Add a point."""
        for name in _SUMS:
            self._sums[name] += row[name]
        add(self._histogram, row["latency_bins"], row["latency_counts"])

    def figures(self, codes: Codes, percentile: str | None) -> Figures:
        """Return what an answer says of it. Without calls there is neither a rate nor a percentile: null."""
        invocations = self._sums["invocations"]
        by_status = {status: self._sums[f"status_{status}"] for status in FAILED_STATUSES}
        errors = sum(by_status.values())
        values = percentiles_ms(self._histogram, _QUANTILES)
        latency = dict(zip(_NAMES, values, strict=True)) if values else dict.fromkeys(_NAMES)
        figures = {
            "invocations": invocations,
            "errors": errors,
            "errorRate": errors / invocations if invocations else None,
            "latencyMs": {name: latency[name] for name in _ALWAYS},
            "errorsByStatus": by_status,
            "errorCodes": codes,
        }
        return figures | ({"latencyPercentileMs": latency[percentile]} if percentile else {})
