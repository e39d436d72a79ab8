"""Problem details (RFC 9457): every refusal of the gateway has this one shape.

`{"type": "urn:problem:analytics:<slug>", "title", "status", "detail", "instance"}`, and
for invalid requests `errors: [{"field", "reason"}]` with every fault.
"""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypedDict, TypeVar

import falcon
import msgspec
import structlog
from gunicorn.http.errors import NoMoreData, ParseException

from shared.errors import DependencyError
from shared.validators import Invalid

T = TypeVar("T")

RETRY_AFTER_SECONDS = 2

_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.problems")

_SLUGS = {
    400: "invalid-request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    409: "conflict",
    413: "content-too-large",
    415: "unsupported-media-type",
    500: "internal-error",
    503: "dependency-unavailable",
}


class Fault(TypedDict):
    """One thing that is wrong with a request."""

    field: str
    reason: str


class Problem(Exception):
    """A request that is refused, as its client will read it.

    slug: a word group when the status alone is not enough.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        slug: str | None = None,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.slug = slug or _SLUGS.get(status) or HTTPStatus(status).phrase.lower().replace(" ", "-")
        self.faults = list(faults)
        self.headers = dict(headers or {})

    @classmethod
    def invalid(cls, faults: Sequence[Fault]) -> "Problem":
        """Refuse a request for faults of its parameters, headers or body."""
        detail = "; ".join(f"{fault['field']} {fault['reason']}".strip() for fault in faults[:5])
        if len(faults) > 5:
            detail += f"; and {len(faults) - 5} more"
        return cls(400, detail, faults=faults)

    def body(self, instance: str) -> bytes:
        """Return the problem document. instance: the path that was asked for."""
        document: dict[str, Any] = {
            "type": f"urn:problem:analytics:{self.slug}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": _utf8(self.detail),
            "instance": _utf8(instance),
        }
        if self.faults:
            document["errors"] = [
                Fault(field=_utf8(fault["field"]), reason=_utf8(fault["reason"])) for fault in self.faults
            ]
        return msgspec.json.encode(document)


class Faults:
    """Gathers the faults of a request, so that all are named at once; each field has the first of its own."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def note(self, field: str, reason: str) -> None:
        """Note a fault, unless the field has one already: what cannot be read is not also missing."""
        self._reasons.setdefault(field, reason)

    def read(self, field: str, validator: Callable[[Any], T], value: object, *, hint: str = "") -> T | None:
        """Return what a validator (shared/validators.py) makes of a value; None where it notes a fault.

        hint: what to add to the reason.
        """
        try:
            return validator(value)
        except Invalid as error:
            self.note(field, f"{error}{hint}")
            return None

    def check(self) -> None:
        """Raise a Problem with every fault noted so far."""
        if self._reasons:
            raise Problem.invalid(
                [Fault(field=field, reason=reason) for field, reason in self._reasons.items()]
            )


def _utf8(text: str) -> str:
    """Write half a surrogate pair, which a client may send in JSON and UTF-8 cannot hold, as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def install(app: falcon.App[Any, Any]) -> None:
    """Make every error of the application a problem document."""
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _http_error)
    app.add_error_handler(DependencyError, _dependency_error)
    app.add_error_handler(BlockingIOError, _slow_client)  # a read past SO_RCVTIMEO, see worker.py
    for broken in (ParseException, NoMoreData, ConnectionError):
        app.add_error_handler(broken, _broken_body)
    app.add_error_handler(Problem, _problem)


def _write(req: falcon.Request, resp: falcon.Response, problem: Problem) -> None:
    for name in resp.headers:  # those of the answer that was not to be
        resp.delete_header(name)
    resp.status = problem.status
    resp.content_type = "application/problem+json"
    if resp.stream is not None:
        resp.stream.close()  # type: ignore[union-attr]  # ours has close(), see gateway/incidents/export.py
        resp.stream = None
    resp.text = None
    resp.data = problem.body(req.path)
    resp.set_header("Cache-Control", "no-store")
    resp.set_headers(problem.headers)


def _problem(req: falcon.Request, resp: falcon.Response, error: Problem, _params: Any) -> None:
    _write(req, resp, error)


def _http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, _params: Any) -> None:
    status = int(str(error.status)[:3])
    details = {404: f"There is nothing at {req.path}.", 405: f"{req.method} is not possible here."}
    detail = error.description or details.get(status) or error.title or "The request was refused."
    _write(req, resp, Problem(status, detail, headers=dict(error.headers or {})))


def _dependency_error(
    req: falcon.Request, resp: falcon.Response, error: DependencyError, _params: Any
) -> None:
    # The driver's message is for the log; it may name hosts and users.
    _log.warning("a dependency failed", dependency=error.dependency, error=str(error))
    detail = f"{error.dependency} did not answer in time; nothing is lost, try again."
    _write(req, resp, Problem(503, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)}))


def _slow_client(req: falcon.Request, resp: falcon.Response, _error: BlockingIOError, _params: Any) -> None:
    headers = {"Connection": "close"}
    _write(req, resp, Problem(408, "The request's body did not arrive in time.", headers=headers))


def _broken_body(req: falcon.Request, resp: falcon.Response, error: Exception, _params: Any) -> None:
    _write(req, resp, Problem(400, f"The request's body cannot be read: {error}"))


def _unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, _params: Any) -> None:
    _log.error("a bug in the gateway", exc_info=error)
    _write(req, resp, Problem(500, "The gateway failed; the log has the reason under this X-Request-ID."))
