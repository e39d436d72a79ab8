"""Cuts: what is refused and how it is said, menus, the platform's answers, and the documented questions."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import Router, org
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.rollups import Rollups
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.settings import KeptDimension
from tests.support.gateway_app import ADMIN, OWNER, PREFIX, Gateway, assert_problem, read
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch

ROOT = Path(__file__).resolve().parents[2]
START = datetime(2026, 11, 9, tzinfo=UTC)
WEEK = "start=2026-11-09T00:00:00Z&end=2026-11-16T00:00:00Z"
ORG = f"/orgs/{org(0)}"
WINDOW = {"start": "2026-11-09T00:00:00Z", "end": "2026-11-16T00:00:00Z"}
KEPT = ("client", "apiKey", "provider", "operation", "metadata.region")


@pytest.fixture
def gateway(environ: dict[str, str], database: TestDatabase, owner: connection) -> Gateway:
    """A gateway over a week of 300 events of three organisations, the first hundred with odd clients."""
    worker = Database(database.rollup_worker_url, application_name="rollups")
    actor = KeptDimension("actor", keeps_hours=False)
    keep_dimensions(worker, (*(KeptDimension(name) for name in KEPT), actor))
    events = Router(seed=3, start=START, end=START + timedelta(days=7)).events(300)
    for event in events[:100]:
        event["clientId"] = "=cmd()"
    insert_batch(owner, events)
    assert Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting()
    worker.close()
    return Gateway(environ)


REFUSED = [
    ("groupBy=colour", "groupBy", "client, actor, apiKey"),
    ("groupBy=client,actor", "groupBy", "at most one dimension"),
    ("groupBy=org", "groupBy", "none, or model"),
    ("groupBy=model,model", "groupBy", "none, or model"),
    ("groupBy=none,model", "groupBy", "none, or model"),
    ("groupBy=", "groupBy", "1 to 200"),
    ("groupBy=metadata.", "groupBy", "metadata.<key>"),
    ("groupBy=metadata.colour", "groupBy", "metadata.region"),
    ("groupBy=actor&granularity=hour", "granularity", "actor (days only)"),
    ("groupBy=actor&timeZone=Asia/Tokyo", "timeZone", "only days are kept"),
    ("groupBy=client&clientId=a&actorId=b", "actorId", "beside clientId"),
    ("clientId=a&actorId=b", "actorId", "beside clientId"),
    ("groupBy=client&provider=x", "provider", "groupBy=client"),
    ("timeZone=Mars/Base", "timeZone", "IANA"),
    ("timeZone=utc", "timeZone", "IANA"),
    ("top=0", "top", "from 1 to 100"),
    ("top=101", "top", "from 1 to 100"),
    ("top=5&top=6", "top", "more than once"),
    ("orderBy=cost", "orderBy", "costEstimateCents"),
    ("compare=next", "compare", "previous"),
    ("orgId=x", "orgId", "is not a parameter here"),
    ("&".join(f"modelId=m{at}" for at in range(101)), "modelId", "at most 100 values"),
    ("clientId=" + "x" * 201, "clientId", "1 to 200 characters"),
    ("granularity=minute", "granularity", "hour, day, week, month, total"),
]


def test_what_cannot_be_asked_is_a_400_that_names_the_parameter_and_what_there_is(gateway: Gateway) -> None:
    for query, field, said in REFUSED:
        answer = gateway.call("GET", f"{PREFIX}{ORG}/usage", query=f"{WEEK}&{query}")
        assert_problem(answer, 400, field)
        assert said in read(answer)["errors"][0]["reason"], query


def test_all_faults_are_named_at_once(gateway: Gateway) -> None:
    query = "start=x&groupBy=colour&timeZone=Mars&top=0&orderBy=y&compare=z&nonsense=1&granularity=q"
    answer = gateway.call("GET", f"{PREFIX}{ORG}/usage", query=query)
    named = {fault["field"] for fault in read(answer)["errors"]}
    assert named == {
        "start", "end", "groupBy", "timeZone", "top", "orderBy", "compare", "nonsense", "granularity",
    }  # fmt: skip


def test_the_dimensions_say_what_is_kept(gateway: Gateway) -> None:
    answer = gateway.get(f"{ORG}/dimensions")
    found = {each["name"]: each for each in answer["dimensions"]}
    assert found.keys() == {*KEPT, "actor"}
    assert (found["actor"]["keepsHours"], found["client"]["keepsHours"]) == (False, True)
    assert (found["apiKey"]["member"], found["metadata.region"]["member"]) == ("apiKeyId", "metadata.region")


def test_the_values_in_use_come_largest_first(gateway: Gateway) -> None:
    for name in ("client", "model", "metadata.region"):
        values = ask(gateway, f"dimensions/{name}/values")["values"]
        calls = [value["invocations"] for value in values]
        assert calls == sorted(calls, reverse=True)
        usage = ask(gateway, "usage", granularity="total", groupBy=name)
        members = {"client": "clientId", "model": "modelId"}
        points = {point[members.get(name, name)]: point["invocations"] for point in usage["series"]}
        assert {value["value"]: value["invocations"] for value in values} == {
            name: count for name, count in points.items() if name is not None
        }
    first = ask(gateway, "dimensions/client/values", limit="1")["values"]
    assert len(first) == 1
    only = ask(gateway, "dimensions/client/values", prefix="we")["values"]
    assert [value["value"] for value in only] == ["web"]
    query = f"{WEEK}&limit=201"
    assert_problem(gateway.call("GET", f"{PREFIX}{ORG}/dimensions/client/values", query=query), 400, "limit")
    refused = gateway.call("GET", f"{PREFIX}{ORG}/dimensions/colour/values", query=WEEK)
    assert_problem(refused, 400, "name")


@pytest.mark.parametrize("what", ["usage", "reliability"])
def test_all_organisations_are_for_admin_alone_and_each_answer_is_one_audit_row(
    gateway: Gateway, owner: connection, what: str
) -> None:
    refused = gateway.call("GET", f"{PREFIX}/{what}", OWNER, query=WEEK)
    assert_problem(refused, 403)
    assert audit_rows(owner) == 0
    answer = gateway.call("GET", f"{PREFIX}/{what}", ADMIN, query=f"{WEEK}&granularity=total")
    assert {point["orgId"] for point in read(answer)["series"]} == {org(number) for number in range(3)}
    assert audit_rows(owner) == 1
    assert_problem(gateway.call("GET", f"{PREFIX}/{what}", ADMIN, query="start=x"), 400)
    assert audit_rows(owner) == 1


def ask(gateway: Gateway, path: str, **parameters: str) -> Any:
    return gateway.get(f"{ORG}/{path}", OWNER, **WINDOW, **parameters)


def audit_rows(owner: connection) -> int:
    with owner.cursor() as cur:
        cur.execute("SELECT count(*) FROM analytics.audit_log WHERE path !~ '/orgs/'")
        [(count,)] = cur.fetchall()
    return int(count)


def test_a_filter_equals_the_row_of_its_group_and_top_plus_other_no_top(gateway: Gateway) -> None:
    grouped = ask(gateway, "usage", groupBy="client", granularity="total")
    for point in grouped["series"]:
        if point["clientId"] is not None:
            one = ask(gateway, "usage", clientId=point["clientId"], granularity="total")
            assert all(one["totals"][name] == point[name] for name in one["totals"])
    top = ask(gateway, "usage", groupBy="client", granularity="total", top="1")
    assert top["totals"] == grouped["totals"]
    assert [point.get("other", False) for point in top["series"]] == [False, True]
    assert sum(point["invocations"] for point in top["series"]) == grouped["totals"]["invocations"]


def test_csv_is_asked_for_by_accept_and_safe_in_spreadsheets(gateway: Gateway) -> None:
    path, query = f"{PREFIX}{ORG}/usage", f"{WEEK}&granularity=total&groupBy=client"
    for accept, is_csv in (("text/csv", True), ("*/*", False), ("text/csv;q=0.1, application/json", False)):
        answer = gateway.call("GET", path, query=query, headers={"Accept": accept})
        assert answer.headers["content-type"].startswith("text/csv") == is_csv
        assert "Accept" in answer.headers["vary"]
    answer = gateway.call("GET", path, query=query, headers={"Accept": "text/csv"})
    lines = answer.text.splitlines()
    assert lines[0].startswith("bucket_start,client_id,invocations,errors,input_tokens")
    assert any(",'=cmd()," in line for line in lines)
    again = gateway.call(
        "GET", path, query=query, headers={"Accept": "text/csv", "If-None-Match": answer.headers["etag"]}
    )
    assert again.status_code == 304


def documented() -> list[str]:
    text = (ROOT / "docs" / "queries.md").read_text(encoding="utf-8")
    return re.findall(r"^GET (\S+)$", text, re.MULTILINE)


def test_the_documented_questions_are_answered(gateway: Gateway) -> None:
    calls = documented()
    assert len(calls) == 10
    for call in calls:
        path, _, query = call.partition("?")
        answer: Any = gateway.call("GET", PREFIX + unquote(path), ADMIN, query=query)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("what", ["usage", "reliability"])
def test_what_needs_dropped_events_is_refused_and_never_shown_as_less(
    gateway: Gateway, owner: connection, what: str
) -> None:
    """Days in Kolkata begin in the middle of an hour of UTC, of which only raw events tell."""
    kolkata = f"{WEEK}&timeZone=Asia/Kolkata&granularity=day"
    assert gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=kolkata).status_code == 200
    with owner.cursor() as cur:
        cur.execute("INSERT INTO analytics.dropped_days (day, what) VALUES (%s, 'events')", [START.date()])
    refused = gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=kolkata)
    assert_problem(refused, 400, "start")
    assert "2026-11-10T00:00:00Z" in read(refused)["errors"][0]["reason"]
    later = "start=2026-11-11T00:00:00Z&end=2026-11-12T00:00:00Z&timeZone=Asia/Kolkata"
    assert gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=later).status_code == 200
    compared = gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=f"{later}&compare=previous")
    assert_problem(compared, 400, "start")
    assert gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=WEEK).status_code == 200
