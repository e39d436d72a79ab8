"""Who may see what: the actor's headers, and the rules that bind an actor to organisations.

The rules, first match wins:
1. `admin`: any organisation; one that X-Actor-Orgs does not name is a cross-org read.
2. a role `org:<uuid>:<role>`: that organisation.
3. a plain `analytics:...` role, and the organisation is in X-Actor-Orgs.
4. a plain role without X-Actor-Orgs: refused under ORG_BINDING=strict, unbound under compat.
5. anything else is refused.
Cross-org and unbound reads are written to the audit log before they are answered (audit.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from gateway.http.problems import Faults, Problem
from shared.validators import Invalid, uuid

PUBLIC = "public"
"""No actor needed."""

ANY_ACTOR = "any-actor"
"""Any authenticated actor, no role."""

USAGE_READ = "analytics:usage:read"
RELIABILITY_READ = "analytics:reliability:read"
EXPORTS_CREATE = "analytics:exports:create"
EXPORTS_READ = "analytics:exports:read"
EXPORTS_DOWNLOAD = "analytics:exports:download"
INCIDENTS_EXPORT = "analytics:incidents:export"

ADMIN = "admin"
"""Every organisation at once."""

ALL_ORGS = "00000000-0000-0000-0000-000000000000"
"""What an audit row and a log line name where an answer shows all organisations; no organisation has it."""

_BLANKS = " \t"

ACTOR_HEADERS = ("X-Actor-Subject", "X-Actor-Roles", "X-Actor-Orgs")


class Decision(StrEnum):
    """Why a request was let through."""

    OPEN = "open"  # needs no organisation
    OWN_ORG = "own-org"
    CROSS_ORG = "cross-org"
    UNBOUND = "unbound"
    RBAC_OFF = "rbac-off"


@dataclass(frozen=True)
class Actor:
    """Who asks. roles are in lower case; orgs is None when the header is absent."""

    subject: str
    roles: frozenset[str]
    orgs: frozenset[str] | None


NOBODY = Actor("anonymous", frozenset(), None)
"""Who asks where nothing is checked."""


def read_actor(header: Callable[[str], str | None]) -> Actor:
    """Read the actor from the headers. header: returns a header's value or None.

    Raises Problem: 401 when subject or roles are missing or blank, 400 when a header is malformed.
    """
    subject, roles = _trimmed(header("X-Actor-Subject")), _items(header("X-Actor-Roles") or "")
    missing = [name for name, value in zip(ACTOR_HEADERS, (subject, roles), strict=False) if not value]
    if missing:
        raise Problem(
            401,
            f"{' and '.join(missing)} must be given and not blank.",
            headers={"WWW-Authenticate": "Actor"},
        )
    faults = Faults()
    if not (len(subject) <= 200 and subject.isascii() and subject.isprintable() and "," not in subject):
        faults.note("X-Actor-Subject", "must be 1 to 200 printable ASCII characters, no comma")
    orgs = _orgs(header("X-Actor-Orgs"), faults)
    faults.check()
    return Actor(subject, frozenset(_ascii_lower(role) for role in roles), orgs)


def _orgs(value: str | None, faults: Faults) -> frozenset[str] | None:
    if value is None:
        return None
    try:
        # An empty header binds to no organisation at all: when in doubt, less is seen.
        return frozenset(uuid(item) for item in _items(value))
    except Invalid:
        faults.note("X-Actor-Orgs", "must be UUIDs separated by commas")
        return None


def _items(value: str) -> list[str]:
    return [item for part in value.split(",") if (item := _trimmed(part))]


def _trimmed(value: str | None) -> str:
    # Only spaces and tabs: str.strip() would make `admin` of a word with a no-break space.
    return (value or "").strip(_BLANKS)


def _ascii_lower(text: str) -> str:
    # Not str.lower(), which makes an ASCII `k` of the Kelvin sign.
    return text.encode("latin-1", "replace").lower().decode("latin-1")


def decide(actor: Actor, role: str, org_id: str, *, compat: bool) -> Decision:
    """Apply the rules to a read of an organisation (lower case). Raises Problem 403."""
    own_roles = actor.roles & {f"org:{org_id}:{role}", f"org:{org_id}:{ADMIN}"}
    bound = actor.orgs is not None and org_id in actor.orgs
    if ADMIN in actor.roles:
        return Decision.OWN_ORG if bound else Decision.CROSS_ORG
    if own_roles or (role in actor.roles and bound):
        return Decision.OWN_ORG
    if role not in actor.roles:
        raise Problem(403, f"This needs the role {role} for this organisation.")
    if actor.orgs is not None:
        raise Problem(403, "X-Actor-Orgs does not name this organisation.")
    if not compat:
        raise Problem(403, f"The role {role} must be bound to organisations by X-Actor-Orgs.")
    return Decision.UNBOUND


def decide_platform(actor: Actor) -> Decision:
    """Apply the rules to a read of all organisations at once. Raises Problem 403."""
    if ADMIN not in actor.roles:
        raise Problem(403, "This needs the role admin.")
    return Decision.CROSS_ORG
