"""Who is answered, and what the audit log holds of it."""

import psycopg2
import pytest
from psycopg2.extensions import connection

from deploy.local.traffic import org
from gateway.resources.usage import UsageResource
from tests.support.gateway_app import (
    ADMIN,
    OWNER,
    PREFIX,
    READ,
    Gateway,
    assert_problem,
    read,
)
from tests.support.seed import connect

MINE = f"{PREFIX}/orgs/{org(0)}/usage"
THEIRS = f"{PREFIX}/orgs/{org(1)}/usage"
FRESHNESS = f"{PREFIX}/orgs/{org(1)}/freshness"
WINDOW = "start=2026-11-01T00:00:00Z&end=2026-11-02T00:00:00Z"
PLAIN = {"X-Actor-Subject": "reader", "X-Actor-Roles": READ}


def audit_log(owner: connection) -> list[tuple[str, ...]]:
    with owner.cursor() as cur:
        cur.execute(
            "SELECT decision, org_id::text, actor_subject, actor_roles, actor_orgs, method, path, request_id"
            " FROM analytics.audit_log ORDER BY audit_id"
        )
        return cur.fetchall()


def test_a_cross_org_answer_leaves_exactly_one_row_that_tells_who_saw_what(
    owner: connection, environ: dict[str, str]
) -> None:
    gateway = Gateway(environ)
    actor = {"X-Actor-Subject": " operator ", "X-Actor-Roles": "Admin, other", "X-Actor-Orgs": org(0)}
    answer = gateway.call("GET", THEIRS, actor, query=WINDOW, headers={"X-Request-ID": "r-1"})
    assert answer.status_code == 200
    row = ("cross-org", org(1), "operator", "Admin, other", org(0), "GET", THEIRS, "r-1")
    assert audit_log(owner) == [row]
    again = gateway.call(
        "GET", THEIRS, actor, query=WINDOW, headers={"X-Request-ID": "r-2", "If-None-Match": "*"}
    )
    assert again.status_code == 304
    assert audit_log(owner) == [row, (*row[:-1], "r-2")]
    shouted = gateway.call("GET", FRESHNESS.replace(org(1), org(1).upper()), ADMIN)
    assert shouted.status_code == 200
    assert audit_log(owner)[2][:5] == ("cross-org", org(1), "operator", "admin", "")


def test_an_answer_within_one_s_own_organisation_or_a_refusal_leaves_none(
    owner: connection, environ: dict[str, str]
) -> None:
    gateway = Gateway(environ)
    requests = [
        (MINE, OWNER, WINDOW, 200),
        (MINE, {**ADMIN, "X-Actor-Orgs": org(0)}, WINDOW, 200),
        (MINE, {**PLAIN, "X-Actor-Roles": f"org:{org(0)}:{READ}"}, WINDOW, 200),
        (THEIRS, ADMIN, "", 400),
        (THEIRS, ADMIN, "start=1", 400),
        (THEIRS, OWNER, WINDOW, 403),
        (THEIRS, PLAIN, WINDOW, 403),
        (THEIRS, {}, WINDOW, 401),
        (THEIRS + "/", ADMIN, WINDOW, 404),
        (f"{PREFIX}/orgs/nobody/usage", ADMIN, WINDOW, 400),
        (f"{PREFIX}/status/readyz", ADMIN, "", 200),
    ]
    for path, actor, query, status in requests:
        assert gateway.call("GET", path, actor, query=query).status_code == status, (path, actor)
    assert gateway.call("DELETE", THEIRS, ADMIN).status_code == 405
    assert gateway.call("POST", f"{PREFIX}/events/validate", ADMIN, body=b"{}").status_code == 400
    assert audit_log(owner) == []


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("REVOKE INSERT ON analytics.audit_log FROM analytics_gateway_all_orgs", 500),
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'a standby' USING ERRCODE = 'read_only_sql_transaction'; END $$;"
            "CREATE TRIGGER refuse BEFORE INSERT ON analytics.audit_log EXECUTE FUNCTION refuse()",
            503,
        ),
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'too late' USING ERRCODE = 'read_only_sql_transaction'; END $$;"
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON analytics.audit_log"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
            503,
        ),
    ],
    ids=["not allowed", "a standby", "lost at commit"],
)
def test_no_row_no_answer(owner: connection, environ: dict[str, str], fault: str, status: int) -> None:
    with owner.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.daily_rollups VALUES"
            " (%s, '2026-11-01T00:00:00Z', 'canary', 1, 0, 0, 0, 0, 1, 1, 1, '{1}', '{1}')",
            (org(1),),
        )
        cur.execute(fault)
    gateway = Gateway(environ)
    answer = gateway.call("GET", THEIRS, ADMIN, query=WINDOW)
    assert_problem(answer, status)
    assert "canary" not in answer.text
    assert "etag" not in answer.headers
    assert audit_log(owner) == []
    assert gateway.call("GET", MINE, OWNER, query=WINDOW).status_code == 200


def test_a_plain_role_without_organisations_is_refused_under_strict_and_audited_under_compat(
    owner: connection, environ: dict[str, str]
) -> None:
    refused = Gateway(environ).call("GET", MINE, PLAIN, query=WINDOW)
    assert_problem(refused, 403)
    assert "X-Actor-Orgs" in read(refused)["detail"]
    compat = Gateway(environ, ORG_BINDING="compat")
    assert compat.call("GET", MINE, PLAIN, query=WINDOW).status_code == 200
    assert [row[:5] for row in audit_log(owner)] == [("unbound", org(0), "reader", READ, "")]
    assert_problem(compat.call("GET", MINE, {**PLAIN, "X-Actor-Orgs": ""}, query=WINDOW), 403)
    assert_problem(compat.call("GET", MINE, {**PLAIN, "X-Actor-Orgs": org(1)}, query=WINDOW), 403)
    assert len(audit_log(owner)) == 1


def test_without_rbac_everybody_is_answered_and_parameters_still_count(
    owner: connection, environ: dict[str, str]
) -> None:
    gateway = Gateway(environ, ENABLE_RBAC="false")
    for actor in ({}, PLAIN, {"X-Actor-Subject": "a,b", "X-Actor-Orgs": "none"}):
        assert gateway.call("GET", THEIRS, actor, query=WINDOW).status_code == 200
    assert_problem(gateway.call("GET", f"{PREFIX}/orgs/x/usage", {}, query=WINDOW), 400, "orgId")
    assert audit_log(owner) == []


def test_who_is_not_known_learns_nothing_about_organisations(environ: dict[str, str]) -> None:
    gateway = Gateway(environ)
    for path in (MINE, THEIRS, f"{PREFIX}/orgs/nobody/usage", f"{PREFIX}/events/validate"):
        method = "POST" if path.endswith("validate") else "GET"
        answer = gateway.call(method, path, {"X-Actor-Roles": "admin"})
        assert_problem(answer, 401)
        assert "X-Actor-Subject" in read(answer)["detail"]
        assert answer.headers["www-authenticate"]


@pytest.mark.parametrize("needs", [None, {}, {"POST": READ}, {"GET": READ, "POST": READ}])
def test_the_application_does_not_start_when_a_method_names_no_role(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, needs: dict[str, str] | None
) -> None:
    if needs is None:
        monkeypatch.delattr(UsageResource, "NEEDS")
    else:
        monkeypatch.setattr(UsageResource, "NEEDS", needs)
    with pytest.raises(TypeError, match=r"UsageResource\.NEEDS"):
        Gateway(environ)


def test_a_method_added_without_a_role_keeps_the_application_from_starting(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UsageResource, "on_delete", UsageResource.on_get, raising=False)
    with pytest.raises(TypeError, match="DELETE"):
        Gateway(environ)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT audit_id FROM analytics.audit_log",
        "UPDATE analytics.audit_log SET actor_subject = 'somebody else'",
        "DELETE FROM analytics.audit_log",
        "TRUNCATE analytics.audit_log",
        "INSERT INTO analytics.usage_events DEFAULT VALUES",
        "DELETE FROM analytics.usage_events",
        "UPDATE analytics.rollups SET invocations = 0",
    ],
)
def test_the_gateway_s_login_can_neither_read_nor_change_the_audit_log_nor_change_the_numbers(
    environ: dict[str, str], statement: str
) -> None:
    gateway = connect(environ["GATEWAY_DATABASE_URL"])
    with gateway.cursor() as cur, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cur.execute(statement)
    gateway.close()
