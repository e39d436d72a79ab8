"""The audit log: a row for each answer that shows an organisation to somebody who is not bound to it."""

import falcon

from gateway.access.authorize import ACTOR_HEADERS, Decision
from shared.postgres import Cursor
from shared.statements import load_statements

_AUDITED = {Decision.CROSS_ORG, Decision.UNBOUND}
_SQL = load_statements("audit.sql")


def write_audit_row(cur: Cursor, req: falcon.Request) -> None:
    """Write the audit row of a request that needs one, in the transaction of what it does."""
    if not is_audited(req):
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


def is_audited(req: falcon.Request) -> bool:
    """Return whether the decision on a request is one that is audited."""
    return getattr(req.context, "decision", None) in _AUDITED
