"""Cuts: menus, the platform's answers, the largest, exact sums, CSV, and the documented questions."""

import csv
import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from psycopg2.extensions import connection

from deploy.local.traffic import Router, org
from gateway import database as database_module
from gateway.aside import Aside
from gateway.cuts import reading
from tests.support import citus_cluster
from tests.support.gateway_app import ADMIN, OWNER, PREFIX, Gateway, assert_problem, read
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch
from tests.support.week import KEPT, ORG, START, WEEK, WINDOW, ask, gateway_over_a_week

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def gateway(environ: dict[str, str], database: TestDatabase, owner: connection) -> Gateway:
    return gateway_over_a_week(environ, database, owner)


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
