"""Error rates, error codes and latency percentiles by minute, hour or day, and over the whole window."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, ClassVar

import falcon

from gateway.answers import send
from gateway.authorize import RELIABILITY_READ
from gateway.params import Params
from gateway.reads import Reads
from shared.buckets import rfc3339
from shared.latency_histogram import PERCENTILES, add, percentiles_ms
from shared.statements import load_statements

_SQL = load_statements("reliability.sql")
_NAMES = tuple(PERCENTILES)
_QUANTILES = tuple(PERCENTILES.values())
_ALWAYS = ("p50", "p95", "p99")

Codes = list[dict[str, object]]


class ReliabilityResource:
    """GET /orgs/{orgId}/reliability"""

    NEEDS: ClassVar = {"GET": RELIABILITY_READ}

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str) -> None:
        """Answer with series, totals and error codes."""
        params = Params(req.query_string, "start", "end", "granularity", "modelId", "percentile")
        model_id = params.text("modelId", most=200)
        percentile = params.choice("percentile", _NAMES)
        window = params.window(("minute", "hour", "day"))
        rows, codes = self._reads.snapshot(
            (_SQL[window.granularity], _SQL[f"error_codes_{window.granularity}"]),
            {"org_id": org_id, "start": window.start, "end": window.end, "model_id": model_id},
        )
        by_point = _codes(codes)
        answer: dict[str, Any] = {
            "orgId": org_id,
            "start": rfc3339(window.start),
            "end": rfc3339(window.end),
            "granularity": window.granularity,
            "series": [
                {"bucketStart": rfc3339(row[0]), "modelId": row[1]}
                | _figures([row], by_point[row[0], row[1]], percentile)
                for row in rows
            ],
            "totals": _figures(rows, by_point[None, None], percentile),
        }
        answer |= {"modelId": model_id} if model_id is not None else {}
        answer |= {"percentile": percentile} if percentile else {}
        send(req, resp, answer)


def _codes(rows: Iterable[tuple[Any, ...]]) -> defaultdict[tuple[datetime | None, str | None], Codes]:
    """Return the error codes by bucket and model; those of the whole window under (None, None)."""
    found: defaultdict[tuple[datetime | None, str | None], Codes] = defaultdict(list)
    for start, model_id, code, count in sorted(rows, key=lambda row: (-row[3], row[2])):
        found[start, model_id].append({"errorCode": code, "count": count})
    return found


def _figures(rows: Sequence[tuple[Any, ...]], codes: Codes, percentile: str | None) -> dict[str, Any]:
    """Return what one point or many say together: sums, and percentiles of the merged histogram.

    Without calls there is neither a rate nor a percentile: those are null.
    """
    histogram: dict[int, int] = {}
    for row in rows:
        add(histogram, row[6], row[7])
    invocations = sum(row[2] for row in rows)
    by_status = {
        name: sum(row[column] for row in rows)
        for column, name in enumerate(("error", "timeout", "throttled"), start=3)
    }
    errors = sum(by_status.values())
    values = percentiles_ms(histogram, _QUANTILES)
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
