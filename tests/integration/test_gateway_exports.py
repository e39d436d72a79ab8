"""Exports over REST: every rule of a request, the list, and links that end with their job."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import urllib3
from falcon import testing

from deploy.local.traffic import org
from shared.clock import utc_now
from tests.support.exports import START, Exports, Rollup, insert_rollups
from tests.support.gateway_app import ADMIN, PREFIX, Gateway, assert_problem, read

ALL = ",".join(f"analytics:exports:{action}" for action in ("create", "read", "download"))
ACTOR = {"X-Actor-Subject": "finance", "X-Actor-Roles": ALL, "X-Actor-Orgs": org(0)}
JOBS = f"{PREFIX}/orgs/{org(0)}/exports"
WEEK = {"start": "2026-03-01T00:00:00Z", "end": "2026-03-07T23:59:59Z"}


@pytest.fixture
def gateway(environ: dict[str, str]) -> Gateway:
    return Gateway(environ)


def create(gateway: Gateway, key: str | None = None, **body: Any) -> testing.Result:
    headers = {"Idempotency-Key": key} if key is not None else {}
    text = json.dumps({"timeRange": WEEK} | body).encode()
    return gateway.call("POST", JOBS, ACTOR, body=text, headers=headers)


def created(gateway: Gateway, **body: Any) -> Any:
    answer = create(gateway, **body)
    assert answer.status_code == 202, answer.text
    return read(answer)


def test_a_job_is_accepted_as_pending_and_found_at_its_location(gateway: Gateway) -> None:
    answer = create(gateway, granularity="hourly", models=["b", "a", "b"], compression="gzip")
    job = read(answer)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"{JOBS}/{job['jobId']}"
    assert job["status"] == "pending"
    assert job["timeRange"] == {"start": "2026-03-01T00:00:00Z", "end": "2026-03-08T00:00:00Z"}
    assert (job["models"], job["compression"], job["requestedBy"]) == (["a", "b"], "gzip", "finance")
    assert read(gateway.call("GET", answer.headers["location"], ACTOR)) == job
    assert created(gateway)["granularity"] == "daily"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"timeRange": None}, ["timeRange"]),
        ({"timeRange": {"start": "2026-03-01"}}, ["timeRange"]),
        ({"timeRange": WEEK | {"zone": "UTC"}}, ["timeRange"]),
        ({"timeRange": {"start": "yesterday", "end": 7}}, ["timeRange.start", "timeRange.end"]),
        ({"timeRange": {"start": WEEK["end"], "end": WEEK["end"]}}, ["timeRange.end"]),
        ({"timeRange": WEEK | {"end": "2026-04-01T00:00:00.000001Z"}}, ["timeRange.end"]),
        ({"timeRange": {"start": "9999-12-31T00:00:00Z", "end": "9999-12-31T23:59:59Z"}}, ["timeRange.end"]),
        ({"granularity": "day"}, ["granularity"]),
        ({"granularity": None}, ["granularity"]),
        ({"models": []}, ["models"]),
        ({"models": ["m"] * 101}, ["models"]),
        ({"models": ["nul\0"]}, ["models"]),
        ({"models": ["\ud800"]}, ["models"]),
        ({"models": "all"}, ["models"]),
        ({"compression": True}, ["compression"]),
        ({"format": "xlsx", "granularity": 5}, ["format", "granularity"]),
    ],
)
def test_every_fault_of_a_request_is_named(
    lone_gateway: Gateway, body: dict[str, Any], fields: list[str]
) -> None:
    assert_problem(create(lone_gateway, **body), 400, *fields)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a":1,"a":2}', b"timeRange=x"]
)
def test_a_body_that_is_no_json_object_is_refused(lone_gateway: Gateway, body: bytes) -> None:
    assert_problem(lone_gateway.call("POST", JOBS, ACTOR, body=body), 400, "")


def test_exactly_31_days_are_allowed(gateway: Gateway) -> None:
    job = created(gateway, timeRange={"start": "2026-03-01T12:00:00Z", "end": "2026-04-01T12:00:00Z"})
    assert job["timeRange"] == {"start": "2026-03-01T00:00:00Z", "end": "2026-04-02T00:00:00Z"}


def test_the_same_key_finds_the_same_job_and_refuses_another_request(gateway: Gateway) -> None:
    first, again = create(gateway, key="k-1"), create(gateway, key="k-1")
    assert read(first) == read(again)
    assert again.status_code == 202
    other = create(gateway, key="k-1", granularity="hourly")
    assert_problem(other, 422)
    assert read(other)["type"] == "urn:problem:analytics:idempotency-key-reused"
    assert_problem(create(gateway, key="\t" + "k" * 201), 400, "Idempotency-Key")
    listed = gateway.get(f"/orgs/{org(0)}/exports", ACTOR)
    assert len(listed["jobs"]) == 1


def test_the_list_pages_newest_first_without_gap_or_repeat(gateway: Gateway) -> None:
    ids = [created(gateway)["jobId"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = gateway.get(
            f"/orgs/{org(0)}/exports", ACTOR, limit="2", **({"cursor": cursor} if cursor else {})
        )
        seen += [job["jobId"] for job in page["jobs"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
        created(gateway)  # a new job does not move the pages behind the cursor
    assert seen == ids[::-1]
    assert gateway.get(f"/orgs/{org(0)}/exports", ACTOR, status="failed")["jobs"] == []
    for query, field in (
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("status=done", "status"),
        ("cursor=x", "cursor"),
    ):
        assert_problem(gateway.call("GET", JOBS, ACTOR, query=query), 400, field)


def test_another_organisations_job_is_a_404_like_one_that_never_was(gateway: Gateway) -> None:
    job_id = created(gateway)["jobId"]
    for path in ("", "/download"):
        answers = [
            gateway.call("GET", f"{PREFIX}/orgs/{org(1)}/exports/{each}{path}", ADMIN)
            for each in (job_id, "00000000-0000-4000-8000-000000000001", "no-uuid")
        ]
        bodies = [read(answer) | {"instance": ""} for answer in answers]
        assert [body["status"] for body in bodies] == [404] * 3
        assert bodies[0] == bodies[1] == bodies[2]


def test_a_download_is_a_link_to_the_file_that_ends_with_the_job(
    gateway: Gateway, exports: Exports, environ: dict[str, str]
) -> None:
    insert_rollups(exports.owner, "daily_rollups", [Rollup(START, org_id=org(0))])
    job = created(gateway)
    url = f"{JOBS}/{job['jobId']}/download"
    refused = gateway.call("GET", url, ACTOR)
    assert_problem(refused, 409)
    assert "pending" in read(refused)["detail"]
    with exports.worker():
        exports.wait({"org_id": org(0), "job_id": job["jobId"]}, "succeeded")
    done = read(gateway.call("GET", f"{JOBS}/{job['jobId']}", ACTOR))
    assert (done["status"], done["rowCount"]) == ("succeeded", 1)
    answer = gateway.call("GET", url, ACTOR)
    assert answer.status_code == 302
    assert answer.headers["cache-control"] == "no-store"
    link = answer.headers["location"]
    assert "X-Amz-Expires=86400&" in link
    fetched = urllib3.request("GET", link, retries=False, timeout=20)
    assert fetched.status == 200
    assert fetched.headers["content-disposition"].startswith('attachment; filename="usage-')
    assert len(fetched.data) == done["sizeBytes"]
    expires_at = datetime.fromisoformat(done["expiresAt"])
    near_its_end = Gateway(environ, clock=lambda: expires_at - timedelta(seconds=90))
    assert "X-Amz-Expires=90&" in near_its_end.call("GET", url, ACTOR).headers["location"]
    late = Gateway(environ, clock=lambda: expires_at)
    assert_problem(late.call("GET", url, ACTOR), 410)
    # Nothing of a link is kept.
    [row] = exports.rows("SELECT export_jobs::text AS whole FROM analytics.export_jobs")
    assert "Signature" not in row["whole"]


def test_each_action_needs_its_own_role(gateway: Gateway) -> None:
    job_id = created(gateway)["jobId"]
    calls = {
        "create": ("POST", JOBS),
        "read": ("GET", JOBS),
        "download": ("GET", f"{JOBS}/{job_id}/download"),
    }
    for action, (method, path) in calls.items():
        others = ",".join(f"analytics:exports:{other}" for other in calls if other != action)
        answer = gateway.call(method, path, ACTOR | {"X-Actor-Roles": others}, body=b"{}")
        assert_problem(answer, 403)


def test_creating_in_another_organisation_is_audited(gateway: Gateway, exports: Exports) -> None:
    before = utc_now() - timedelta(minutes=1)
    answer = gateway.call("POST", JOBS, ADMIN, body=json.dumps({"timeRange": WEEK}).encode())
    assert answer.status_code == 202
    [row] = exports.rows("SELECT decision, method, occurred_at FROM analytics.audit_log")
    assert (row["decision"], row["method"]) == ("cross-org", "POST")
    assert row["occurred_at"].astimezone(UTC) > before
