"""The middleware that lets requests through or refuses them, and writes the audit log.

A resource names what its methods need in NEEDS. A read that crosses the line between organisations is
written to analytics.audit_log after its answer is made and before it is sent: no row, no answer. A call
that writes writes the row in its own transaction.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Protocol

import falcon

from gateway.access.audit import is_audited, write_audit_row
from gateway.access.authorize import (
    ACTOR_HEADERS,
    ADMIN,
    ALL_ORGS,
    ANY_ACTOR,
    NOBODY,
    PUBLIC,
    Decision,
    decide,
    decide_platform,
    read_actor,
)
from gateway.access.signature import Signatures
from gateway.database import GatewayDatabase
from gateway.http.params import org_id
from gateway.http.problems import Fault, Problem

REPEATED_HEADERS = "X-Analytics-Repeated"
"""The server's own header that names headers which arrived twice (gateway/http/worker.py)."""


def refuse_repeated(req: falcon.Request, *names: str) -> None:
    """Raise Problem 400 that names those of the headers which the request has more than once."""
    seen_twice = (req.get_header(REPEATED_HEADERS) or "").split(",")
    repeated = [name for name in names if name.upper() in seen_twice]
    if repeated:
        raise Problem.invalid([Fault(field=name, reason="is given more than once") for name in repeated])


class Resource(Protocol):
    """A resource declares what each of its methods needs: PUBLIC, ANY_ACTOR or a role."""

    NEEDS: ClassVar[Mapping[str, str]]


class Access:
    """Decides on every request that found its resource."""

    def __init__(
        self, database: GatewayDatabase, signatures: Signatures, *, enabled: bool, compat: bool
    ) -> None:
        self._database = database
        self._signatures = signatures
        self._enabled = enabled
        self._compat = compat

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, resource: Resource, params: dict[str, Any]
    ) -> None:
        """Raise Problem 400, 401 or 403, or note the decision and put the normal form of orgId."""
        need = resource.NEEDS.get("GET" if req.method == "HEAD" else req.method)
        if need is None or need == PUBLIC:  # None: falcon answers 405 or OPTIONS by itself
            return
        refuse_repeated(req, *ACTOR_HEADERS, *self._signatures.headers)
        self._signatures.check(req)
        actor = read_actor(req.get_header) if self._enabled else NOBODY
        req.context.subject = actor.subject
        if "org_id" in params:
            params["org_id"] = req.context.org_id = org_id(params["org_id"])
        elif need == ADMIN:
            req.context.org_id = ALL_ORGS
        if not self._enabled:
            req.context.decision = Decision.RBAC_OFF
        elif need == ANY_ACTOR:
            req.context.decision = Decision.OPEN
        else:
            req.context.decision = "refused"
            if need == ADMIN:
                req.context.decision = decide_platform(actor)
                return
            req.context.decision = decide(actor, need, params["org_id"], compat=self._compat)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, _resource: object, _succeeded: bool
    ) -> None:
        """Write the audit row of an answer that shows another organisation's data, unless it is written."""
        if resp.status_code < 400 and is_audited(req) and not getattr(req.context, "audited", False):
            self._database.transaction(partial(write_audit_row, req=req))
