"""The middleware that lets requests through or refuses them, and writes the audit log.

A resource names what its methods need in NEEDS. A read that crosses the line between organisations is
written to analytics.audit_log after its answer is made and before it is sent: no row, no answer. A call
that writes writes the row in its own transaction.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Protocol

import falcon

from gateway.authorize import (
    ACTOR_HEADERS,
    ANY_ACTOR,
    NOBODY,
    PUBLIC,
    Decision,
    decide,
    read_actor,
)
from gateway.params import org_id
from gateway.problems import Fault, Problem
from gateway.reads import Reads
from shared.postgres import Cursor
from shared.statements import load_statements

REPEATED_HEADERS = "X-Analytics-Repeated"
"""The server's own header that names headers which arrived twice (gateway/server.py)."""

_AUDITED = {Decision.CROSS_ORG, Decision.UNBOUND}
_SQL = load_statements("audit.sql")


def refuse_repeated(req: falcon.Request, *names: str) -> None:
    """Raise Problem 400 that names those of the headers which the request has more than once."""
    seen_twice = (req.get_header(REPEATED_HEADERS) or "").split(",")
    repeated = [name for name in names if name.upper() in seen_twice]
    if repeated:
        raise Problem.invalid([Fault(field=name, reason="is given more than once") for name in repeated])


def write_audit_row(cur: Cursor, req: falcon.Request) -> None:
    """Write the audit row of a request that needs one, in the transaction of what it does."""
    if not _is_audited(req):
        return
    _, roles, orgs = map(req.get_header, ACTOR_HEADERS)
    cur.execute(
        _SQL["write"],
        {
            "org_id": req.context.org_id,
            "decision": req.context.decision.value,
            "actor_subject": req.context.subject,
            "actor_roles": roles,
            "actor_orgs": orgs or "",
            "method": req.method,
            "path": req.path,
            "request_id": req.context.request_id,
        },
    )


def _is_audited(req: falcon.Request) -> bool:
    return getattr(req.context, "decision", None) in _AUDITED


class Resource(Protocol):
    """A resource says what each of its methods needs: PUBLIC, ANY_ACTOR or a role."""

    NEEDS: ClassVar[Mapping[str, str]]


class Access:
    """Decides on every request that found its resource."""

    def __init__(self, reads: Reads, *, enabled: bool, compat: bool) -> None:
        self._reads = reads
        self._enabled = enabled
        self._compat = compat

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, resource: Resource, params: dict[str, Any]
    ) -> None:
        """Raise Problem 400, 401 or 403, or note the decision and put the normal form of orgId."""
        need = resource.NEEDS.get("GET" if req.method == "HEAD" else req.method)
        if need is None or need == PUBLIC:  # None: falcon answers 405 or OPTIONS by itself
            return
        refuse_repeated(req, *ACTOR_HEADERS)
        actor = read_actor(req.get_header) if self._enabled else NOBODY
        req.context.subject = actor.subject
        if "org_id" in params:
            params["org_id"] = req.context.org_id = org_id(params["org_id"])
        if not self._enabled:
            req.context.decision = Decision.RBAC_OFF
        elif need == ANY_ACTOR:
            req.context.decision = Decision.OPEN
        else:
            req.context.decision = "refused"
            req.context.decision = decide(actor, need, params["org_id"], compat=self._compat)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, _resource: object, _succeeded: bool
    ) -> None:
        """Write the audit row of an answer that shows another organisation's data, unless it is written."""
        if resp.status_code < 400 and _is_audited(req) and not getattr(req.context, "audited", False):
            self._reads.transaction(partial(write_audit_row, req=req))
