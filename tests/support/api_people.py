"""Who asks the API in the stateful test, and what each of them must be answered."""

from collections.abc import Mapping

from tests.support.access_table import ROLES, USAGE

PLATFORM = "the platform"
"""What a question about all organisations needs."""

OK, CROSS = "ok", "cross-org"
_EVERY_ROLE = ",".join(ROLES)


def headers_of(who: str, org_id: str, other_org: str) -> Mapping[str, str]:
    """Return the headers of an actor. org_id: the organisation it is asked about; other_org: another."""
    roles, orgs = {
        "owner": (_EVERY_ROLE, org_id),
        "reader": (USAGE, org_id),
        "scoped": (f"org:{org_id}:admin", None),
        "both": (_EVERY_ROLE, f"{other_org},{org_id}"),
        "admin": ("admin", None),
        "bound admin": ("admin", org_id),
        "stranger": (_EVERY_ROLE, other_org),
        "scoped stranger": (f"org:{other_org}:admin", other_org),
        "unbound": (_EVERY_ROLE, None),
        "nobody": (None, None),
    }[who]
    found = {
        "X-Actor-Subject": None if who == "nobody" else who,
        "X-Actor-Roles": roles,
        "X-Actor-Orgs": orgs,
    }
    return {name: value for name, value in found.items() if value is not None}


ALLOWED = ("owner", "scoped", "both", "admin", "bound admin")
"""Who is answered, whatever they ask of the organisation."""

EVERYBODY = (*ALLOWED, *ALLOWED, "reader", "stranger", "scoped stranger", "unbound", "nobody")
"""All of them; those who are answered more often."""


def verdict(who: str, need: str) -> str:
    """Return OK, CROSS for an answer with a row in the audit log, or the status of the refusal."""
    if who == "nobody":
        return "401"
    if need == PLATFORM:
        return CROSS if who in {"admin", "bound admin"} else "403"
    if who == "reader":
        return OK if need == USAGE else "403"
    return {"admin": CROSS}.get(who, OK) if who in ALLOWED else "403"
