"""What the server refuses by itself, outside the application: as problem documents, and in the log."""

import logging
from http import HTTPStatus
from typing import Any

import structlog
from gunicorn.glogging import Logger
from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)

from gateway.http.arrival import Refusal
from gateway.http.correlation import Correlation
from gateway.http.problems import Problem

_FAILED = "The gateway failed; the log has the reason under this X-Request-ID."

# What gunicorn refuses, the first that fits. None of it is a 5xx, since it is the client's.
_STATUSES: dict[type[Exception], int] = {
    LimitRequestLine: 414,
    LimitRequestHeaders: 431,
    ExpectationFailed: 417,
    ParseException: 400,
}

_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.server")


def refusal_of(error: Exception) -> Refusal:
    """Return what became of a request outside the application, and log what is a bug of ours."""
    if not isinstance(error, InvalidResponseHeader | InvalidResponseHeaderName):  # those are ours
        for kind, status in _STATUSES.items():
            if isinstance(error, kind):
                return Refusal(status, str(error) or HTTPStatus(status).phrase)
    _log.error("a bug in the gateway", exc_info=error)
    return Refusal(500, _FAILED)


def refusal_bytes(refusal: Refusal, correlation: Correlation) -> bytes:
    """Return a whole answer that the application does not see, counted and logged as its answers are."""
    status, detail = refusal.status, refusal.detail
    request_id = correlation.refused(status, detail)
    body = Problem(status, detail).body("")
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
        f"Cache-Control: no-store\r\nX-Request-ID: {request_id}\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def is_no_silent_client(record: logging.LogRecord) -> bool:
    """A filter for gunicorn's log, which takes each client that falls silent for an error of its own."""
    return record.exc_info is None or not isinstance(record.exc_info[1], BlockingIOError)


class ServerLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own messages. The application's line has more of each request, so none is made here."""

    def access(self, *_: Any) -> None:
        """Write nothing; without this gunicorn puts a line together and drops it, a twentieth of the time."""
