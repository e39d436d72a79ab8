"""Usage and spend: rollups by hour or day, and their totals."""

from datetime import datetime
from decimal import Context, Decimal
from functools import reduce
from typing import Any, ClassVar

import falcon
import msgspec

from gateway.answers import number, send
from gateway.authorize import USAGE_READ
from gateway.freshness import FreshnessReader
from gateway.params import Params
from gateway.reads import Reads
from shared.buckets import rfc3339
from shared.statements import load_statements

_SQL = load_statements("usage.sql")

# Wide enough for any sum of the rollups' columns; the default 28 digits would round.
_EXACT = Context(prec=200)


class Point(msgspec.Struct, rename="camel", gc=False):
    """A model's usage in a bucket."""

    bucket_start: str
    model_id: str
    invocations: int
    errors: int
    input_tokens: msgspec.Raw
    output_tokens: msgspec.Raw
    cost_estimate_cents: msgspec.Raw


class UsageResource:
    """GET /orgs/{orgId}/usage"""

    NEEDS: ClassVar = {"GET": USAGE_READ}

    def __init__(self, reads: Reads, freshness: FreshnessReader) -> None:
        self._reads = reads
        self._freshness = freshness

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str) -> None:
        """Answer with series, totals and freshness."""
        params = Params(req.query_string, "start", "end", "granularity", "modelId")
        model_id = params.text("modelId", most=200)
        window = params.window()
        # Before the sums: they may then show more than this promises, never less.
        freshness = self._freshness.of_org(org_id)
        rows = self._reads.rows(
            _SQL[window.granularity],
            {"org_id": org_id, "start": window.start, "end": window.end, "model_id": model_id},
        )
        answer: dict[str, Any] = {
            "orgId": org_id,
            "start": rfc3339(window.start),
            "end": rfc3339(window.end),
            "granularity": window.granularity,
            "series": _series(rows),
            "totals": _totals(rows),
            "freshness": freshness.summary(),
        }
        if model_id is not None:
            answer["modelId"] = model_id
        send(req, resp, answer)


def _series(rows: list[tuple[Any, ...]]) -> list[Point]:
    times: dict[datetime, str] = {}
    series = []
    for start, model_id, invocations, errors, tokens_in, tokens_out, cost in rows:
        text = times.get(start)
        if text is None:
            text = times[start] = rfc3339(start)
        series.append(
            Point(text, model_id, invocations, errors, number(tokens_in), number(tokens_out), number(cost))
        )
    return series


def _totals(rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    return {
        "invocations": sum(row[2] for row in rows),
        "errors": sum(row[3] for row in rows),
        "inputTokens": sum(int(row[4]) for row in rows),
        "outputTokens": sum(int(row[5]) for row in rows),
        "costEstimateCents": number(f"{reduce(_EXACT.add, (Decimal(row[6]) for row in rows), Decimal(0)):f}"),
    }
