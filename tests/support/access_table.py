"""Who may see what, as a table: written from the contract's words, not from the code that decides.

A = organisation A, to which most actors here are bound; B = another; U = one that nobody has heard of.
"""

from dataclasses import dataclass

from deploy.local.traffic import org

PREFIX = "/analytics/v1"
A, B, U = org(0), org(1), org(2)
ORGS = {"A": A, "B": B, "U": U}
MALFORMED = "not-an-organisation"
ALL_ORGS = "00000000-0000-0000-0000-000000000000"
"""What the audit log names for an answer about all organisations."""

WINDOW = "start=2026-11-01T00:00:00Z&end=2026-11-02T00:00:00Z"

USAGE = "analytics:usage:read"
RELIABILITY = "analytics:reliability:read"
CREATE = "analytics:exports:create"
READ = "analytics:exports:read"
DOWNLOAD = "analytics:exports:download"
INCIDENTS = "analytics:incidents:export"
ROLES = (USAGE, RELIABILITY, CREATE, READ, DOWNLOAD, INCIDENTS)

NONE = "none"  # no actor
ANY = "any authenticated actor"
PLATFORM = "admin alone"


@dataclass(frozen=True)
class Call:
    """What a method of a route needs, and what an allowed call is answered with."""

    need: str
    status: int = 200
    query: str = ""


# Every route and every method of it. HEAD answers as GET does; every other method is a 405.
ROUTES: dict[str, dict[str, Call]] = {
    f"{PREFIX}/orgs/{{org_id}}/usage": {"GET": Call(USAGE, query=WINDOW)},
    f"{PREFIX}/orgs/{{org_id}}/reliability": {"GET": Call(RELIABILITY, query=WINDOW)},
    f"{PREFIX}/orgs/{{org_id}}/freshness": {"GET": Call(USAGE)},
    f"{PREFIX}/orgs/{{org_id}}/dimensions": {"GET": Call(USAGE)},
    f"{PREFIX}/orgs/{{org_id}}/dimensions/{{name}}/values": {"GET": Call(USAGE, query=WINDOW)},
    f"{PREFIX}/orgs/{{org_id}}/exports": {"GET": Call(READ), "POST": Call(CREATE, 202)},
    f"{PREFIX}/orgs/{{org_id}}/exports/{{job_id}}": {"GET": Call(READ)},
    f"{PREFIX}/orgs/{{org_id}}/exports/{{job_id}}/download": {"GET": Call(DOWNLOAD, 302)},
    f"{PREFIX}/orgs/{{org_id}}/incidents/export": {"GET": Call(INCIDENTS, query=WINDOW)},
    f"{PREFIX}/usage": {"GET": Call(PLATFORM, query=WINDOW)},
    f"{PREFIX}/reliability": {"GET": Call(PLATFORM, query=WINDOW)},
    f"{PREFIX}/events/validate": {"POST": Call(ANY, 204)},
    f"{PREFIX}/status/healthz": {"GET": Call(NONE)},
    f"{PREFIX}/status/readyz": {"GET": Call(NONE)},
    f"{PREFIX}/openapi.json": {"GET": Call(NONE)},
    "/metrics": {"GET": Call(NONE)},
    "/analytics/console": {"GET": Call(NONE, 308)},
    "/analytics/console/": {"GET": Call(NONE)},
    "/analytics/console/assets/{name}": {
        "GET": Call(NONE, 404)
    },  # there is no file of the name the test asks for
}

OK, CROSS, UNBOUND = "ok", "cross-org", "unbound"


@dataclass(frozen=True)
class Actor:
    """The headers of an actor, and what becomes of its calls.

    `{role}` in roles stands for each role in turn. The verdicts are then those on calls that need that role;
    calls that need another one are 403. strict and compat: for A, B and U. A number is a refusal; "ok" an
    answer; "cross-org" and "unbound" an answer with that row in the audit log.
    """

    name: str
    subject: str | None
    roles: str | None
    orgs: str | None
    strict: tuple[str, str, str]
    compat: tuple[str, str, str]
    platform: str = "403"
    any_call: str = OK  # calls that any authenticated actor may make


def _all(verdict: str) -> tuple[str, str, str]:
    return (verdict, verdict, verdict)


def _refused(name: str, subject: str | None, roles: str | None, orgs: str | None, status: str) -> Actor:
    return Actor(name, subject, roles, orgs, _all(status), _all(status), status, status)


NO = _all("403")
ONLY_A, ONLY_B = (OK, "403", "403"), ("403", OK, "403")
EVERY_ROLE = ",".join(ROLES)

ACTORS = (
    # Subject and roles are required: missing or blank is a 401, before all else.
    _refused("nobody", None, None, None, "401"),
    _refused("no subject", None, "admin", A, "401"),
    _refused("a blank subject", " \t", "admin", A, "401"),
    _refused("no roles", "s", None, A, "401"),
    _refused("blank roles", "s", " \t", A, "401"),
    _refused("roles of commas", "s", " , ,", A, "401"),
    _refused("organisations alone", None, None, A, "401"),
    # A subject with a comma and what is no list of organisations are a 400.
    _refused("a comma in the subject", "s,t", "admin", A, "400"),
    _refused("admin with malformed organisations", "s", "admin", "A", "400"),
    _refused("roles with malformed organisations", "s", EVERY_ROLE, f"{A},B", "400"),
    # 1. admin: any organisation; one that X-Actor-Orgs does not name is a cross-org read.
    Actor("admin", "s", "admin", None, _all(CROSS), _all(CROSS), CROSS),
    Actor("ADMIN with blanks", " s ", "\tADMIN , viewer", None, _all(CROSS), _all(CROSS), CROSS),
    Actor("admin bound to none", "s", "admin", "", _all(CROSS), _all(CROSS), CROSS),
    Actor("admin bound to A", "s", "admin", A, (OK, CROSS, CROSS), (OK, CROSS, CROSS), CROSS),
    Actor("admin bound to B", "s", "admin", B.upper(), (CROSS, OK, CROSS), (CROSS, OK, CROSS), CROSS),
    Actor("admin and every role", "s", f"{EVERY_ROLE},admin", None, _all(CROSS), _all(CROSS), CROSS),
    # 2. a role org:<uuid>:<role>: that organisation, whatever X-Actor-Orgs names. admin grants every action.
    Actor("a role of A", "s", f"org:{A}:{{role}}", None, ONLY_A, ONLY_A),
    Actor("a role of A, bound to none", "s", f"org:{A}:{{role}}", "", ONLY_A, ONLY_A),
    Actor("a role of A, bound to B", "s", f"org:{A}:{{role}}", B, ONLY_A, ONLY_A),
    Actor("A ROLE OF A", "s", f"ORG:{A.upper()}:{{role}}", None, ONLY_A, ONLY_A),
    Actor("a role of B, bound to A", "s", f"org:{B}:{{role}}", A, ONLY_B, ONLY_B),
    Actor("admin of A", "s", f"org:{A}:admin", None, ONLY_A, ONLY_A),
    Actor("admin of A, bound to B", "s", f"org:{A}:admin", B, ONLY_A, ONLY_A),
    Actor("admin of no organisation", "s", "org::admin,org:*:admin", A, NO, NO),
    # 3. a plain role and the organisation in X-Actor-Orgs.
    Actor("a role bound to A", "s", "{role}", A, ONLY_A, ONLY_A),
    Actor("a role bound to B", "s", "{role}", B, ONLY_B, ONLY_B),
    Actor("a role bound to A and B", "s", "{role}", f"{B}, {A.upper()}", (OK, OK, "403"), (OK, OK, "403")),
    Actor("every role bound to A", "s", EVERY_ROLE, A, ONLY_A, ONLY_A),
    Actor(
        "a role of B and bound to A", "s", f"org:{B}:{{role}},{{role}}", A, (OK, OK, "403"), (OK, OK, "403")
    ),
    # 4. a plain role without X-Actor-Orgs: refused under strict, allowed and audited under compat.
    Actor("a role", "s", "{role}", None, NO, _all(UNBOUND)),
    Actor("every role", "s", EVERY_ROLE, None, NO, _all(UNBOUND)),
    Actor("a role and one of A", "s", f"{{role}},org:{A}:{{role}}", None, ONLY_A, (OK, UNBOUND, UNBOUND)),
    Actor("a role bound to none", "s", "{role}", "", NO, NO),
    # 5. otherwise 403.
    Actor("a viewer bound to A", "s", "viewer", A, NO, NO),
    Actor("a viewer", "s", "viewer", None, NO, NO),
    Actor("nearly a role", "s", "analytics:usage,analytics:*,administrator,\xa0admin", A, NO, NO),
)
