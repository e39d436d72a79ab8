"""The middleware that lets requests through or refuses them, and writes the audit log.

A resource names what its methods need in NEEDS. A read that crosses the line between organisations is
written to analytics.audit_log after its answer is made and before it is sent: no row, no answer.
"""

from collections.abc import Mapping
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
from shared.statements import load_statements

REPEATED_HEADERS = "X-Analytics-Repeated"
"""The server's own header that names actor headers which arrived twice (gateway/server.py)."""

_AUDITED = {Decision.CROSS_ORG, Decision.UNBOUND}
_SQL = load_statements("audit.sql")


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
        need = resource.NEEDS.get(req.method)
        if need is None or need == PUBLIC:  # None: falcon answers 405 or OPTIONS by itself
            return
        repeated = req.get_header(REPEATED_HEADERS)
        if repeated:
            names = repeated.split(",")
            raise Problem.invalid([Fault(field=name, reason="is given more than once") for name in names])
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
        """Write the audit row of an answer that shows another organisation's data."""
        if getattr(req.context, "decision", None) not in _AUDITED or resp.status_code >= 400:
            return
        headers = dict(zip(("subject", "roles", "orgs"), map(req.get_header, ACTOR_HEADERS), strict=True))
        self._reads.write(
            _SQL["write"],
            {
                "org_id": req.context.org_id,
                "decision": req.context.decision.value,
                "actor_subject": req.context.subject,
                "actor_roles": headers["roles"],
                "actor_orgs": headers["orgs"] or "",
                "method": req.method,
                "path": req.path,
                "request_id": req.context.request_id,
            },
        )
