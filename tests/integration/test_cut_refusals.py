"""Cuts that are refused, and how it is said: what is not kept, not in the calendar, dropped, or too much."""

from datetime import timedelta

import pytest
from psycopg2.extensions import connection

from gateway.cuts import reading
from rollup_worker.dimensions import keep_dimensions
from shared.postgres import Database
from shared.settings import KeptDimension
from tests.support.gateway_app import ADMIN, PREFIX, Gateway, assert_problem, read
from tests.support.places import TestDatabase
from tests.support.week import ORG, START, WEEK, gateway_over_a_week


@pytest.fixture
def gateway(environ: dict[str, str], database: TestDatabase, owner: connection) -> Gateway:
    return gateway_over_a_week(environ, database, owner)


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
