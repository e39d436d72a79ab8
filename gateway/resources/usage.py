"""Usage and spend: rollups by hour or day, and their totals."""

from contextlib import ExitStack
from typing import Any, ClassVar

import falcon
import msgspec

from gateway.access.authorize import USAGE_READ
from gateway.database import GatewayDatabase
from gateway.http.answers import send
from gateway.http.params import Params
from gateway.http.sizes import MAX_LIGHT_POINTS, MAX_POINTS, is_light, refuse_larger
from gateway.http.slots import Slots
from gateway.resources.freshness import FreshnessReader
from shared.buckets import rfc3339
from shared.statements import load_statements

_SUMS = {
    "invocations": "invocations",
    "errors": "errors",
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "costEstimateCents": "cost_estimate_cents",
}
"""The sums of the totals, and their columns."""

_SQL = load_statements("usage.sql")


class UsageResource:
    """GET /orgs/{orgId}/usage"""

    NEEDS: ClassVar = {"GET": USAGE_READ}

    def __init__(self, database: GatewayDatabase, freshness: FreshnessReader, large: Slots) -> None:
        self._database = database
        self._freshness = freshness
        self._large = large

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str) -> None:
        """Answer with series, totals and freshness."""
        params = Params(req.query_string, "start", "end", "granularity", "modelId")
        model_id = params.text("modelId", max_length=200)
        window = params.window()
        # Before the sums: they may then show more than this promises, never less.
        freshness = self._freshness.summary(org_id)
        parameters = {"org_id": org_id, "start": window.start, "end": window.end, "model_id": model_id}
        with ExitStack() as opened:
            [row] = self._database.rows(
                _SQL[window.granularity], {**parameters, "max_points": MAX_LIGHT_POINTS}
            )
            held = None
            if not is_light(points=row["points"]):
                held = opened
                refuse_larger(window, model_id, points=row["points"])
                opened.enter_context(self._large.slot(req))
                [row] = self._database.rows(
                    _SQL[window.granularity], {**parameters, "max_points": MAX_POINTS}
                )
                refuse_larger(window, model_id, points=row["points"])
            answer: dict[str, Any] = {
                "orgId": org_id,
                "start": rfc3339(window.start),
                "end": rfc3339(window.end),
                "granularity": window.granularity,
                "series": _json(f"[{row['series'] or ''}]"),
                "totals": {name: _json(row[column]) for name, column in _SUMS.items()},
                "freshness": freshness.shown(),
            }
            if model_id is not None:
                answer["modelId"] = model_id
            send(req, resp, answer, held)


def _json(text: str) -> msgspec.Raw:
    """Put JSON that PostgreSQL wrote into an answer as it is."""
    return msgspec.Raw(text.encode())
