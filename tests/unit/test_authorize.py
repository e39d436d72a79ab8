"""Who may see what: the five rules as one table, and the headers that try to get round them."""

import pytest

from gateway.access.authorize import USAGE_READ, Actor, Decision, decide, read_actor
from gateway.http.problems import Problem

ORG = "0a11ce00-0000-4000-8000-00000000000a"
OTHER = "0a11ce00-0000-4000-8000-00000000000b"
READ = USAGE_READ
EXPORT = "analytics:exports:read"
KELVIN = "\u212a"
NO_BREAK_SPACE = "\xa0"

OWN, CROSS, UNBOUND, NO = "own-org", "cross-org", "unbound", "403"


def ask(roles: str, orgs: str | None, *, compat: bool, org_id: str = ORG, need: str = READ) -> str:
    """Return the decision on a read, or the status it is refused with."""
    headers = {"X-Actor-Subject": "tester", "X-Actor-Roles": roles, "X-Actor-Orgs": orgs}
    try:
        return decide(read_actor(headers.get), need, org_id, compat=compat).value
    except Problem as problem:
        return str(problem.status)


# roles, X-Actor-Orgs, what strict says, what compat says
RULES = [
    # 1. admin: any organisation; one that X-Actor-Orgs does not name is a cross-org read.
    ("admin", None, CROSS, CROSS),
    ("admin", "", CROSS, CROSS),
    ("admin", OTHER, CROSS, CROSS),
    ("admin", ORG, OWN, OWN),
    ("admin", f"{OTHER},{ORG}", OWN, OWN),
    ("ADMIN", None, CROSS, CROSS),
    ("viewer, admin", None, CROSS, CROSS),
    (f"admin,org:{ORG}:{READ}", None, CROSS, CROSS),  # the first rule wins
    (f"{READ},admin", None, CROSS, CROSS),
    # 2. a role org:<uuid>:<role>: that organisation, and no other.
    (f"org:{ORG}:{READ}", None, OWN, OWN),
    (f"org:{ORG}:{READ}", "", OWN, OWN),
    (f"org:{ORG}:{READ}", OTHER, OWN, OWN),
    (f"org:{ORG.upper()}:{READ}", None, OWN, OWN),
    (f"ORG:{ORG}:ANALYTICS:Usage:Read", None, OWN, OWN),
    (f"org:{ORG}:admin", None, OWN, OWN),
    (f"org:{OTHER}:{READ},org:{ORG}:{READ}", None, OWN, OWN),
    (f"org:{OTHER}:{READ}", None, NO, NO),
    (f"org:{OTHER}:{READ}", ORG, NO, NO),
    (f"org:{OTHER}:admin", ORG, NO, NO),
    (f"org:{ORG}:{EXPORT}", None, NO, NO),
    (f"org:{ORG}", None, NO, NO),
    (f"org::{READ}", None, NO, NO),
    (f"org:*:{READ}", None, NO, NO),
    (f"org:{ORG.replace('-', '')}:{READ}", None, NO, NO),
    # 3. a plain role, and the organisation is in X-Actor-Orgs.
    (READ, ORG, OWN, OWN),
    (READ, ORG.upper(), OWN, OWN),
    (READ, f" {OTHER} ,\t{ORG}\t", OWN, OWN),
    (READ, f",,{ORG},", OWN, OWN),
    ("Analytics:USAGE:read", ORG, OWN, OWN),
    (f"org:{OTHER}:{READ},{READ}", ORG, OWN, OWN),
    (READ, OTHER, NO, NO),
    # 4. a plain role without X-Actor-Orgs.
    (READ, None, NO, UNBOUND),
    (f"{EXPORT}, {READ}", None, NO, UNBOUND),
    (f"org:{OTHER}:{READ},{READ}", None, NO, UNBOUND),
    # A header that is there and names nobody binds to nobody.
    (READ, "", NO, NO),
    (READ, " \t", NO, NO),
    (READ, ",", NO, NO),
    # 5. all else.
    (EXPORT, None, NO, NO),
    (EXPORT, ORG, NO, NO),
    ("viewer", ORG, NO, NO),
    ("analytics", ORG, NO, NO),
    ("analytics:usage", ORG, NO, NO),
    ("analytics:*", ORG, NO, NO),
    (f"{READ}:more", ORG, NO, NO),
    ("administrator", ORG, NO, NO),
    ("admin;viewer", ORG, NO, NO),
    ("admin viewer", ORG, NO, NO),
    # Only spaces and tabs are blanks; what merely looks like a role is none.
    (" admin\t", None, CROSS, CROSS),
    (f"{NO_BREAK_SPACE}admin", ORG, NO, NO),
    (f"admin{NO_BREAK_SPACE}", ORG, NO, NO),
    ("\x0badmin", ORG, NO, NO),
    ("admin\x85", ORG, NO, NO),
    ("\u2003admin", ORG, NO, NO),
    ("ad\u017fmin", ORG, NO, NO),
    ("adm\u0131n", ORG, NO, NO),
    ("ADM\u0130N", ORG, NO, NO),
    ("\uff41dmin", ORG, NO, NO),
    (READ.replace("s", "\u017f"), ORG, NO, NO),
    # Malformed organisations are never skipped over, not even for an administrator.
    ("admin", "none", "400", "400"),
    (READ, f"{ORG},none", "400", "400"),
    (READ, f"{{{ORG}}}", "400", "400"),
    (READ, f"urn:uuid:{ORG}", "400", "400"),
    (READ, ORG.replace("-", ""), "400", "400"),
    (READ, ORG.replace("0a", "0\uff21"), "400", "400"),
    (READ, f"{ORG}{NO_BREAK_SPACE}", "400", "400"),
    (READ, f"{ORG};{OTHER}", "400", "400"),
    (READ, f"{ORG} {OTHER}", "400", "400"),
    (READ, "*", "400", "400"),
]


@pytest.mark.parametrize(("roles", "orgs", "strict", "compat"), RULES)
def test_the_first_rule_that_fits_decides(roles: str, orgs: str | None, strict: str, compat: str) -> None:
    assert ask(roles, orgs, compat=False) == strict
    assert ask(roles, orgs, compat=True) == compat


def test_a_kelvin_sign_is_no_k() -> None:
    assert ask("ADMIN,TASK:ONE", None, compat=False, need="task:one") == CROSS
    assert ask("TASK:ONE", ORG, compat=False, need="task:one") == OWN
    assert ask(f"TAS{KELVIN}:ONE", ORG, compat=False, need="task:one") == NO


def test_every_right_of_an_administrator_is_audited_where_it_crosses_organisations() -> None:
    actor = read_actor({"X-Actor-Subject": "a", "X-Actor-Roles": "admin", "X-Actor-Orgs": ORG}.get)
    assert decide(actor, READ, ORG, compat=False) is Decision.OWN_ORG
    assert decide(actor, READ, OTHER, compat=False) is Decision.CROSS_ORG


@pytest.mark.parametrize("blank", [None, "", " ", "\t", " \t "])
def test_a_missing_or_blank_subject_or_role_is_a_401_that_names_it(blank: str | None) -> None:
    good = {"X-Actor-Subject": "tester", "X-Actor-Roles": "admin"}
    for name in good:
        with pytest.raises(Problem) as raised:
            read_actor({**good, name: blank}.get)
        assert raised.value.status == 401
        assert name in raised.value.detail
        assert "WWW-Authenticate" in raised.value.headers
    with pytest.raises(Problem) as raised:
        read_actor(dict.fromkeys(good, blank).get)
    assert all(name in raised.value.detail for name in good)


@pytest.mark.parametrize(
    "subject",
    [
        "a" * 201,
        "a,b",
        "a\x7f",
        "a\x00b",
        "a\tb",
        "a\x1fb",
        "M\xfcller",
        f"{NO_BREAK_SPACE}a",
        KELVIN,
        "\ud800",
    ],
)
def test_a_malformed_subject_is_a_400_that_names_the_header(subject: str) -> None:
    with pytest.raises(Problem) as raised:
        read_actor({"X-Actor-Subject": subject, "X-Actor-Roles": "admin"}.get)
    assert raised.value.status == 400
    assert [fault["field"] for fault in raised.value.faults] == ["X-Actor-Subject"]


@pytest.mark.parametrize("subject", ["a", "a" * 200, "svc:billing/eu 1 <ops@example.org>", "".join(
    chr(code) for code in range(0x21, 0x7F) if chr(code) != ","
)])  # fmt: skip
def test_a_subject_is_any_printable_ascii_but_a_comma(subject: str) -> None:
    assert read_actor({"X-Actor-Subject": f" {subject}\t", "X-Actor-Roles": "x"}.get).subject == subject


def test_malformed_subject_and_orgs_are_named_together() -> None:
    with pytest.raises(Problem) as raised:
        read_actor({"X-Actor-Subject": "a,b", "X-Actor-Roles": "x", "X-Actor-Orgs": "one"}.get)
    assert [fault["field"] for fault in raised.value.faults] == ["X-Actor-Subject", "X-Actor-Orgs"]


def test_an_actor_is_read_in_normal_form() -> None:
    headers = {"X-Actor-Subject": "a", "X-Actor-Roles": "B, c,,\tB", "X-Actor-Orgs": f"{ORG.upper()},{ORG}"}
    assert read_actor(headers.get) == Actor("a", frozenset({"b", "c"}), frozenset({ORG}))
