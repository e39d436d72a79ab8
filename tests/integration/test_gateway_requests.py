"""What stands beside a request's path and query: its method, its headers, and what its body says it is."""

import json
from typing import Any

import pytest
from psycopg2.extensions import connection

from deploy.local.traffic import org
from tests.support.gateway_app import ADMIN, DOCUMENT, PREFIX, Gateway, assert_problem, read
from tests.support.seed import connect

JOBS = f"{PREFIX}/orgs/{org(0)}/exports"
VALIDATE = f"{PREFIX}/events/validate"
WINDOW = "start=2026-11-01T00:00:00Z&end=2026-11-02T00:00:00Z"
WEEK = {"timeRange": {"start": "2026-03-01T00:00:00Z", "end": "2026-03-07T00:00:00Z"}}
CREATE = "analytics:exports:create"


@pytest.fixture
def gateway(environ: dict[str, str]) -> Gateway:
    return Gateway(environ)


def actor(subject: str) -> dict[str, str]:
    return {"X-Actor-Subject": subject, "X-Actor-Roles": CREATE, "X-Actor-Orgs": org(0)}


def create(gateway: Gateway, who: dict[str, str], key: str | None = None, **body: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return gateway.call("POST", JOBS, who, body=json.dumps(WEEK | body).encode(), headers=headers)


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "json", "\xe9"]
)
@pytest.mark.parametrize("path", [JOBS, VALIDATE])
def test_a_body_that_does_not_say_it_is_json_is_a_415(
    lone_gateway: Gateway, path: str, content_type: str
) -> None:
    answer = lone_gateway.call("POST", path, ADMIN, body=b"{}", headers={"Content-Type": content_type})
    assert_problem(answer, 415)
    assert answer.headers["accept"] == "application/json"


@pytest.mark.parametrize("path", [JOBS, VALIDATE])
def test_no_body_at_all_is_a_415_too(lone_gateway: Gateway, path: str) -> None:
    assert_problem(lone_gateway.call("POST", path, ADMIN), 415)


def test_half_a_surrogate_pair_in_a_body_is_a_400_that_shows_it(lone_gateway: Gateway) -> None:
    answer = lone_gateway.call("POST", JOBS, ADMIN, body=b'{"\\ud800":1}')
    assert_problem(answer, 400, "\\ud800", "timeRange")
    event = b'{"metadata":{"\\udfff":"\\ud800"},"modelId":"\\ud800","\\ud800":1}'
    assert_problem(lone_gateway.call("POST", VALIDATE, ADMIN, body=event), 400)


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
@pytest.mark.parametrize("method", ["WEBSOCKET", "FOO", "PROPFIND", "TRACE", "CONNECT", "get"])
def test_a_method_of_no_use_is_a_problem_with_a_request_id_on_every_route(
    lone_gateway: Gateway, method: str
) -> None:
    paths = [path.replace("{orgId}", org(0)).replace("{jobId}", org(1)) for path in DOCUMENT["paths"]]
    for path in [*paths, "/nowhere"]:
        answer = lone_gateway.call(method, path, ADMIN)
        assert answer.status_code in {400, 404, 405}, (method, path)
        assert_problem(answer, answer.status_code)


def test_head_answers_as_get_without_the_body_wherever_get_does(owner: connection, gateway: Gateway) -> None:
    job = read(create(gateway, ADMIN))["jobId"]
    for template, item in DOCUMENT["paths"].items():
        path = template.replace("{orgId}", org(0)).replace("{jobId}", job)
        query = WINDOW if path.endswith(("usage", "reliability", "incidents/export")) else ""
        with_get, with_head = (gateway.call(method, path, ADMIN, query=query) for method in ("GET", "HEAD"))
        if "get" not in item:
            assert with_head.status_code == 405
            continue
        assert with_head.status_code == with_get.status_code, path
        assert with_head.content == b""
        ignored = {"x-request-id", "etag", "content-length"} if "freshness" in path else {"x-request-id"}
        ignored |= {"content-length"} if path in {"/metrics", f"{PREFIX}/orgs/{org(0)}/usage"} else set()
        shown = [{k: v for k, v in a.headers.items() if k not in ignored} for a in (with_get, with_head)]
        if not path.endswith("usage"):
            assert shown[0] == shown[1], path
        assert shown[0].keys() == shown[1].keys(), path
    with owner.cursor() as cur:
        cur.execute("SELECT method, path FROM analytics.audit_log WHERE method IN ('GET', 'HEAD')")
        rows = cur.fetchall()
    assert {path for method, path in rows if method == "HEAD"} == {p for method, p in rows if method == "GET"}


def test_head_of_a_stream_gives_its_connection_back(gateway: Gateway) -> None:
    for _ in range(10):
        answer = gateway.call("HEAD", f"{PREFIX}/orgs/{org(0)}/incidents/export", ADMIN, query=WINDOW)
        assert answer.status_code == 200
        assert answer.headers["x-truncated"] == "false"


def test_an_idempotency_key_belongs_to_the_subject_that_sent_it(gateway: Gateway) -> None:
    first, again, other = (create(gateway, actor(who), "k-1") for who in ("ann", "ann", "bob"))
    assert read(first) == read(again)
    assert read(other)["jobId"] != read(first)["jobId"]
    assert read(other)["requestedBy"] == "bob"
    assert_problem(create(gateway, actor("ann"), "k-1", granularity="hourly"), 422)


def test_a_key_that_the_release_before_took_is_known_and_that_release_still_finds_its_own(
    gateway: Gateway, environ: dict[str, str]
) -> None:
    before = connect(environ["GATEWAY_DATABASE_URL"])
    insert = (
        "INSERT INTO analytics.export_jobs (org_id, granularity, window_start, window_end, models, compress,"
        " requested_by, idempotency_key)"
        " VALUES (%s, 'daily', '2026-03-01Z', '2026-03-07Z', NULL, false, 'ann', 'k')"
        " ON CONFLICT (org_id, idempotency_key) DO NOTHING RETURNING job_id::text"
    )
    with before.cursor() as cur:
        cur.execute(insert, (org(0),))
        row = cur.fetchone()
        assert row is not None
        cur.execute(insert, (org(0),))
        assert cur.fetchone() is None
    before.close()
    assert read(create(gateway, actor("ann"), "k"))["jobId"] == row[0]
    assert read(create(gateway, actor("bob"), "k"))["jobId"] != row[0]


def test_a_cross_org_export_and_its_audit_row_are_both_there_or_neither(
    owner: connection, gateway: Gateway
) -> None:
    assert create(gateway, ADMIN, "k").status_code == 202
    assert create(gateway, ADMIN, "k").status_code == 202
    with owner.cursor() as cur:
        cur.execute("SELECT decision, method FROM analytics.audit_log")
        assert cur.fetchall() == [("cross-org", "POST")] * 2
        cur.execute("REVOKE INSERT ON analytics.audit_log FROM analytics_gateway, analytics_gateway_all_orgs")
        assert_problem(create(gateway, ADMIN), 500)
        assert create(gateway, {**ADMIN, "X-Actor-Orgs": org(0)}).status_code == 202
        cur.execute("SELECT count(*) FROM analytics.export_jobs")
        assert cur.fetchone() == (2,)


@pytest.mark.parametrize("roles", [",,,", " , ", "\t,"])
def test_roles_of_nothing_but_commas_are_blank(gateway: Gateway, roles: str) -> None:
    who = {"X-Actor-Subject": "ann", "X-Actor-Roles": roles}
    answer = gateway.call("GET", f"{PREFIX}/orgs/{org(0)}/freshness", who)
    assert_problem(answer, 401)
    assert "X-Actor-Roles" in read(answer)["detail"]
