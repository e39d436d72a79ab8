"""One id from a request's header to its answer, its log lines and its problem document; and its metrics."""

import time
from typing import Any

import falcon
import structlog

from shared.logs import safe_id
from shared.metrics import GatewayMetrics

_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")


class Correlation:
    """The outermost middleware: begins each request's context and ends it with one log line."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Take the client's X-Request-ID if it is a fit one, else make one."""
        self._begin(req)

    @staticmethod
    def _begin(req: falcon.Request) -> None:
        req.context.request_id = safe_id(req.get_header("X-Request-ID"))
        req.context.began = time.monotonic()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=req.context.request_id)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, _resource: object, _succeeded: bool
    ) -> None:
        """Count the request and write its line."""
        if not hasattr(req.context, "request_id"):  # falcon refuses some methods before any middleware
            self._begin(req)
        if req.method == "HEAD" and resp.stream is not None:
            resp.stream.close()  # type: ignore[union-attr]  # ours has close(), see gateway/incidents/export.py
            resp.stream = iter(())
        resp.set_header("X-Request-ID", req.context.request_id)
        seconds = time.monotonic() - req.context.began
        # The template, not the path: paths are without number.
        labels = {"route": req.uri_template or "unmatched", "method": _known_method(req.method)}
        self._metrics.requests.labels(**labels, status=resp.status_code).inc()
        self._metrics.request_seconds.labels(**labels).observe(seconds)
        level = _log.debug if labels["route"] in _QUIET_ROUTES and resp.status_code < 400 else _log.info
        level(
            "request",
            **labels,
            path=req.path,
            status=resp.status_code,
            seconds=round(seconds, 4),
            **_who(req),
        )
        structlog.contextvars.clear_contextvars()

    def refused(self, status: int, detail: str) -> str:
        """Count and log what was refused before it was a request to the application; return an id for it."""
        request_id: str = safe_id(None)
        labels = {"route": "unmatched", "method": "OTHER"}
        self._metrics.requests.labels(**labels, status=status).inc()
        _log.info("request", **labels, request_id=request_id, status=status, detail=detail)
        return request_id


_QUIET_ROUTES = {"/metrics", "/analytics/v1/status/healthz", "/analytics/v1/status/readyz"}


def _known_method(method: str) -> str:
    return method if method in {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"} else "OTHER"


def _who(req: falcon.Request) -> dict[str, Any]:
    found = {name: getattr(req.context, name, None) for name in ("subject", "org_id", "decision")}
    return {name: value for name, value in found.items() if value is not None}
