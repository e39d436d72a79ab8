"""Cuts: what is refused and how it is said, menus, the platform's answers, and the documented questions."""

import csv
import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import Router, org
from gateway import database as database_module
from gateway.aside import Aside
from gateway.cuts import reading
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.rollups import Rollups
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.settings import KeptDimension
from tests.support import citus_cluster
from tests.support.gateway_app import ADMIN, OWNER, PREFIX, Gateway, assert_problem, read
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch

ROOT = Path(__file__).resolve().parents[2]
START = datetime(2026, 11, 9, tzinfo=UTC)
WEEK = "start=2026-11-09T00:00:00Z&end=2026-11-16T00:00:00Z"
ORG = f"/orgs/{org(0)}"
WINDOW = {"start": "2026-11-09T00:00:00Z", "end": "2026-11-16T00:00:00Z"}
UNICODE = "\u00dc\u65e5\u672c"
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
    for event in events[100:110]:
        event["clientId"] = UNICODE
    for event in events:
        event |= {"operation": "chat", "provider": "self-hosted", "apiKeyId": "key_prod"}
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
    ("groupBy=actor&timeZone=Asia/Tokyo", "timeZone", "kept are actor (days only), apiKey, client"),
    ("groupBy=client&groupBy=model", "groupBy", "more than once"),
    ("metadata.colour=red", "metadata.colour", "kept are actor (days only), apiKey, client"),
    ("metadata.region=a&metadata.colour=b", "metadata.colour", "beside metadata.region"),
    ("metadata.=a", "metadata.", "metadata.<key>"),
    ("clientId=", "clientId", "1 to 200 characters"),
    ("provider=", "provider", "1 to 200 characters"),
    ("top=", "top", "from 1 to 100"),
    ("compare=previous&compare=previous", "compare", "more than once"),
    ("timeZone=", "timeZone", "1 to 100"),
    ("timeZone=%2B05:30", "timeZone", "IANA"),
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
    ("&".join(f"metadata.region=m{at}" for at in range(101)), "metadata.region", "at most 100 values"),
    ("clientId=" + "x" * 201, "clientId", "1 to 200 characters"),
    ("granularity=minute", "granularity", "hour, day, week, month, total"),
]


def test_what_cannot_be_asked_is_a_400_that_names_the_parameter_and_what_there_is(gateway: Gateway) -> None:
    for query, field, said in REFUSED:
        answer = gateway.call("GET", f"{PREFIX}{ORG}/usage", query=f"{WEEK}&{query}")
        assert_problem(answer, 400, field)
        assert said in read(answer)["errors"][0]["reason"], query


CALENDAR = [
    ("start=0001-01-01T00:00:00Z&end=0001-01-02T00:00:00Z&timeZone=America/New_York", "start", "too early"),
    ("start=0001-01-01T00:00:00Z&end=0001-01-02T00:00:00Z&compare=previous", "start", "too early"),
    (
        "start=0001-01-01T00:00:00Z&end=0001-01-01T01:00:00Z&compare=previous&granularity=hour",
        "start",
        "early",
    ),
    ("start=9999-12-31T00:00:00Z&end=9999-12-31T23:59:59Z", "end", "too late"),
    ("start=9999-12-31T00:00:00Z&end=9999-12-31T23:00:00Z&timeZone=Asia/Tokyo", "end", "too late"),
]


@pytest.mark.parametrize("what", ["usage", "reliability"])
def test_the_ends_of_the_calendar_are_said(gateway: Gateway, what: str) -> None:
    for query, field, said in CALENDAR:
        answer = gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=query)
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
    for prefix, found in (
        ("we", ["web"]),
        ("\u00dc\u65e5", ["\u00dc\u65e5\u672c"]),
        ("U", []),
        ("%", []),
        ("_", []),
    ):
        only = ask(gateway, "dimensions/client/values", prefix=prefix)["values"]
        assert [value["value"] for value in only] == found, prefix


def test_values_that_cannot_be_asked_for_are_a_400_that_says_what_can(gateway: Gateway) -> None:
    for name, query, field, said in (
        ("client", f"{WEEK}&limit=0", "limit", "from 1 to 200"),
        ("client", f"{WEEK}&limit=201", "limit", "from 1 to 200"),
        ("client", f"{WEEK}&limit=1&limit=2", "limit", "more than once"),
        ("client", f"{WEEK}&prefix=", "prefix", "1 to 200 characters"),
        ("client", f"{WEEK}&prefix={'x' * 201}", "prefix", "1 to 200 characters"),
        ("client", f"{WEEK}&prefix=%E6%97", "prefix", "UTF-8"),
        ("client", f"{WEEK}&timeZone=UTC", "timeZone", "there are start, end, prefix, limit"),
        ("client", WEEK.partition("&")[0], "end", "missing"),
        ("client", "start=2026-01-01T00:00:00Z&end=2027-03-01T00:00:00Z", "end", "400 days"),
        ("colour", WEEK, "name", "there are model, actor, apiKey, client"),
        ("errorCode", WEEK, "name", "there are model, actor, apiKey, client"),
        ("", WEEK, "name", "there are model, actor, apiKey, client"),
    ):
        answer = gateway.call("GET", f"{PREFIX}{ORG}/dimensions/{name}/values", query=query)
        assert_problem(answer, 400, field)
        assert said in read(answer)["errors"][0]["reason"], query


def test_hours_that_are_kept_for_less_long_are_refused_in_the_window_before_too(
    environ: dict[str, str], database: TestDatabase
) -> None:
    worker = Database(database.rollup_worker_url, application_name="rollups")
    keep_dimensions(worker, (KeptDimension("client", hours_kept=timedelta(days=30)),))
    worker.close()
    gateway = Gateway(environ, clock=lambda: START + timedelta(days=30))
    asked = f"{WEEK}&clientId=web&granularity=hour"
    assert gateway.call("GET", f"{PREFIX}{ORG}/usage", query=asked).status_code == 200
    for hour in ("00", "05"):
        query = f"{asked}&compare=previous".replace("T00", f"T{hour}")
        refused = gateway.call("GET", f"{PREFIX}{ORG}/usage", query=query)
        if hour == "00":  # whole days, and days are kept longer
            assert refused.status_code == 200
            continue
        assert_problem(refused, 400, "granularity")
        assert "client (hours for 30 days)" in read(refused)["errors"][0]["reason"]


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
    chosen = gateway.call("GET", f"{PREFIX}/{what}", ADMIN, query=f"{WEEK}&orgId={org(1)}&orgId={org(2)}")
    assert read(chosen)["orgId"] == [org(1), org(2)]
    assert_problem(gateway.call("GET", f"{PREFIX}/{what}", ADMIN, query="start=x"), 400)
    assert audit_rows(owner) == 2


@pytest.mark.usefixtures("gateway")
def test_an_answer_about_all_organisations_tells_the_worst_freshness_of_them(
    environ: dict[str, str], owner: connection
) -> None:
    uncached = Gateway(environ, FRESHNESS_CACHE_TTL="1ms")
    found = uncached.get("/usage", ADMIN, **WINDOW)["freshness"]
    assert (found["status"], found["lagSeconds"]) == ("fresh", 0)
    waiting = Router(seed=4, start=START, end=START + timedelta(days=7)).events(1)
    insert_batch(owner, waiting, received_at=datetime.now(UTC) - timedelta(hours=2))
    found = Gateway(environ, FRESHNESS_CACHE_TTL="1ms").get("/usage", ADMIN, **WINDOW, orgId=org(0))[
        "freshness"
    ]
    assert found["status"] == "delayed"
    assert found["lagSeconds"] >= 7200


def test_what_an_earlier_release_rolled_up_says_which_sums_it_lacks(
    gateway: Gateway, owner: connection
) -> None:
    since = START + timedelta(days=3)
    for what in ("usage", "reliability"):
        assert "detailsCompleteSince" not in gateway.get(f"{ORG}/{what}", ADMIN, **WINDOW)
    with owner.cursor() as cur:
        cur.execute("UPDATE analytics.rollup_dimensions SET complete_since = %s WHERE name = ''", (since,))
    later = {"start": "2026-11-13T00:00:00Z", "end": "2026-11-14T00:00:00Z"}
    for what in ("usage", "reliability"):
        assert gateway.get(f"{ORG}/{what}", ADMIN, **WINDOW)["detailsCompleteSince"] == "2026-11-12T00:00:00Z"
        assert "detailsCompleteSince" not in gateway.get(f"{ORG}/{what}", ADMIN, **later)
        before = gateway.get(f"{ORG}/{what}", ADMIN, **later, compare="previous")
        assert "detailsCompleteSince" not in before
        longer = gateway.get(f"{ORG}/{what}", ADMIN, **{**later, "end": WINDOW["end"]}, compare="previous")
        assert "detailsCompleteSince" in longer


@pytest.mark.parametrize("order_by", ["costEstimateCents", "invocations", "errors", "inputTokens"])
def test_the_largest_are_the_same_whether_one_pass_finds_them_or_two(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, order_by: str
) -> None:
    questions = [
        {"groupBy": group, "top": "2", "orderBy": order_by, "granularity": granularity, "timeZone": zone}
        for group in ("org", "model", "org,model")
        for granularity, zone in (("day", "UTC"), ("week", "America/New_York"))
    ]
    at_once = [gateway.get("/usage", ADMIN, **WINDOW, **question) for question in questions]
    monkeypatch.setattr(reading, "_MAX_GROUPS_IN_ONE_PASS", 0)
    assert [gateway.get("/usage", ADMIN, **WINDOW, **question) for question in questions] == at_once
    assert any(point.get("other") for point in at_once[0]["series"])


@pytest.mark.skipif(citus_cluster.is_wanted(), reason="its nodes have no common state: one connection asks")
def test_the_largest_of_many_values_are_the_same_whether_two_connections_find_them_or_one(
    gateway: Gateway, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    rows = Aside.rows

    def watched(aside: Aside) -> list[tuple[Any, ...]] | None:
        time.sleep(0.2)  # for a machine that is busy: it may begin
        found.append((these := rows(aside)) is not None)
        return these

    monkeypatch.setattr(Aside, "rows", watched)
    questions = [
        {"groupBy": "actor", "top": top, "orderBy": order_by, "compare": "previous"}
        for top, order_by in (("1", "costEstimateCents"), ("40", "invocations"), ("100", "errors"))
    ]
    by_two = [ask(gateway, "usage", **question) for question in questions]
    assert found == [True] * 3
    monkeypatch.setattr(database_module, "POOL_SIZE", 1)
    alone = Gateway(environ)
    assert [ask(alone, "usage", **question) for question in questions] == by_two
    assert found == [True] * 3 + [False] * 3
    assert [len(each["series"]) > 1 for each in by_two] == [True] * 3


@pytest.mark.parametrize("tokens", [3 * 10**17, 10**19], ids=["their sum", "each"])
def test_sums_that_are_too_large_for_64_bits_are_exact(
    gateway: Gateway, owner: connection, tokens: int
) -> None:
    with owner.cursor() as cur:
        cur.execute("UPDATE analytics.rollups SET input_tokens = invocations * %s", [tokens])
    totals = ask(gateway, "usage", groupBy="none")["totals"]
    assert totals["inputTokens"] == totals["invocations"] * tokens > 2**63
    for question in (
        {"timeZone": "America/New_York"},
        {"groupBy": "model", "top": "2", "orderBy": "inputTokens"},
        {"groupBy": "provider", "top": "1", "orderBy": "inputTokens", "granularity": "week"},
        {"groupBy": "actor", "top": "1", "orderBy": "inputTokens"},
    ):
        found = ask(gateway, "usage", **question)
        path, query = f"{PREFIX}{ORG}/usage", "&".join([WEEK, *map("=".join, question.items())])
        answer = gateway.call("GET", path, query=query, headers={"Accept": "text/csv"})
        lines = [int(line["input_tokens"]) for line in csv.DictReader(answer.text.splitlines())]
        assert lines == [point["inputTokens"] for point in found["series"]]
        assert sum(lines) == found["totals"]["inputTokens"] > 2**63


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


def documented() -> list[tuple[str, Any]]:
    """Return each documented call with its answer; what was left out of series is not in it."""
    text = (ROOT / "docs" / "queries.md").read_text(encoding="utf-8")
    found = re.findall(r"^GET (\S+)$\n```\n\n```json\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    return [(call, json.loads(re.sub(r",\s*\.\.\. \d+ more", "", answer))) for call, answer in found]


def test_the_documented_questions_are_answered_in_the_documented_form(gateway: Gateway) -> None:
    calls = documented()
    assert len(calls) == 10
    for call, wanted in calls:
        path, _, query = call.partition("?")
        answer: Any = gateway.call("GET", PREFIX + unquote(path), ADMIN, query=query)
        assert answer.status_code == 200, answer.text
        got = read(answer)
        got.pop("freshness", None)
        for name in ("start", "end", "granularity"):
            assert got[name] == wanted[name], call
        assert got["series"], call
        assert form(got) == form(wanted), call


def form(value: Any) -> Any:
    """Return the names of an answer's members in their order, those of a series by its first point."""
    if isinstance(value, list):
        return form(value[0]) if value and isinstance(value[0], dict) else None
    return [(name, form(inner)) for name, inner in value.items()] if isinstance(value, dict) else None


@pytest.mark.parametrize("what", ["usage", "reliability"])
def test_what_needs_dropped_events_is_refused_and_never_shown_as_less(
    gateway: Gateway, owner: connection, what: str
) -> None:
    """Days in Nepal begin a quarter of an hour into an hour of UTC, which only raw events can split."""
    nepal = f"{WEEK}&timeZone=Asia/Kathmandu&granularity=day"
    assert gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=nepal).status_code == 200
    with owner.cursor() as cur:
        cur.execute("INSERT INTO analytics.dropped_days (day, what) VALUES (%s, 'events')", [START.date()])
    refused = gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=nepal)
    assert_problem(refused, 400, "start")
    assert "2026-11-10T00:00:00Z" in read(refused)["errors"][0]["reason"]
    later = "start=2026-11-11T00:00:00Z&end=2026-11-12T00:00:00Z&timeZone=Asia/Kathmandu"
    assert gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=later).status_code == 200
    compared = gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=f"{later}&compare=previous")
    assert_problem(compared, 400, "start")
    for kept in (WEEK, f"{WEEK}&timeZone=Asia/Kolkata&granularity=day"):
        assert gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=kept).status_code == 200


@pytest.mark.parametrize("what", ["usage", "reliability"])
def test_what_would_read_too_many_raw_events_is_refused_with_what_reads_fewer(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(reading, "MAX_RAW_EVENTS", -1)  # what reads none asks for no number
    for query, status in (
        ("timeZone=Asia/Kathmandu&granularity=day", 400),
        ("timeZone=Asia/Kolkata&granularity=hour", 400),
        ("timeZone=Asia/Kolkata&granularity=day", 200),
        ("timeZone=Asia/Tokyo&granularity=hour", 200),
    ):
        answer = gateway.call("GET", f"{PREFIX}{ORG}/{what}", ADMIN, query=f"{WEEK}&{query}")
        assert answer.status_code == status, query
        if status == 400:
            assert_problem(answer, 400, "timeZone")
            assert "raw events" in read(answer)["errors"][0]["reason"]
