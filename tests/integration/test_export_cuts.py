"""Exports by dimension and in time zones: the rows of the usage answer of the same cut, in a file."""

import csv
import io
import re
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import Event, Router, org
from rollup_worker.dimensions import drop_dimension, keep_dimensions
from rollup_worker.rollups import Rollups
from shared.kept import read_kept
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.settings import KeptDimension
from shared.statements import load_statements
from tests.support.export_cuts import ExportClient, Line
from tests.support.exports import Exports
from tests.support.gateway_app import ADMIN, PREFIX, Gateway, assert_problem, read
from tests.support.seed import insert_batch

START = datetime(2026, 10, 20, tzinfo=UTC)
END = START + timedelta(days=25)
WINDOW = {"start": "2026-10-20T00:00:00Z", "end": "2026-11-14T00:00:00Z"}
KEPT = ("client", "apiKey", "provider", "operation", "metadata.region")
FIGURES = ["invocations", "errors", "input_tokens", "output_tokens", "cost_estimate_cents"]
COSTS = ("0.0000000001", "0.000015", "999999999999.9999999999", "0", "12.5")


def an_event(at: str, **more: Any) -> Event:
    return {
        "eventId": str(uuid.uuid4()),
        "orgId": org(0),
        "occurredAt": at,
        "modelId": "m",
        "status": "success",
        "latencyMs": 5,
        "inputTokens": 10**12,
        "outputTokens": 7,
        "costEstimateCents": Decimal("0.000015"),
        **more,
    }


@pytest.fixture
def worker(worker: Database) -> Database:
    """The rollup worker's connection to a database that keeps dimensions."""
    actor = KeptDimension("actor", keeps_hours=False)
    keep_dimensions(worker, (*(KeptDimension(name) for name in KEPT), actor))
    return worker


def put(owner: connection, worker: Database, events: list[Event]) -> None:
    """Store events and roll them up; of a dimension nothing was before."""
    insert_batch(owner, events)
    assert Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting()
    with owner.cursor() as cur:
        cur.execute("UPDATE analytics.rollup_dimensions SET complete_since = NULL")


@pytest.fixture
def client(environ: dict[str, str], exports: Exports) -> ExportClient:
    return ExportClient(Gateway(environ), exports)


@pytest.fixture
def events(owner: connection, worker: Database) -> list[Event]:
    """500 events of three organisations: costs to the last decimal, no client in some, or an odd name."""
    found = Router(seed=11, start=START, end=END).events(500)
    for number, event in enumerate(found):
        event["costEstimateCents"] = Decimal(COSTS[number % len(COSTS)])
        if number % 3 == 0:
            event["clientId"] = None
        if number % 7 == 0:
            event["clientId"] = ("=cmd()", 'a "b", c', "\u65e5\u672c")[number % 3]
        if number % 5 == 0:
            event["metadata"] = {"region": ""} if number % 2 else {}
    put(owner, worker, found)
    return found


def test_the_columns_are_those_of_the_usage_answer_after_the_organisation(
    client: ExportClient, exports: Exports, events: list[Event]
) -> None:
    forms = [
        ({}, "model", ["model_id"]),
        ({"groupBy": "model"}, "model", ["model_id"]),
        ({"groupBy": "none"}, "none", []),
        ({"groupBy": "client"}, "client", ["client_id"]),
        ({"groupBy": "model,client"}, "model,client", ["model_id", "client_id"]),
        ({"groupBy": "apiKey,model"}, "model,apiKey", ["model_id", "api_key_id"]),
        ({"groupBy": "actor"}, "actor", ["actor_id"]),
        ({"groupBy": "model,metadata.region"}, "model,metadata.region", ["model_id", "metadata.region"]),
    ]
    with exports.worker():
        for asked, shown, keys in forms:
            file = client.deliver(timeRange=WINDOW, **asked)
            assert (file.job["groupBy"], file.job["timeZone"]) == (shown, "UTC")
            assert file.columns == ["bucket_start", "org_id", *keys, *FIGURES]
            assert {line["org_id"] for line in file.lines} == {org(0)}
            assert len(file.lines) > 20
            assert_same_rows(client, file.lines, **asked)


def assert_same_rows(client: ExportClient, lines: list[Line], **asked: str) -> None:
    """Compare with the CSV answer of usage: cell by cell, in its order."""
    query = "&".join(f"{name}={quote(value)}" for name, value in (WINDOW | asked).items())
    answer = client.gateway.call(
        "GET", f"{PREFIX}/orgs/{org(0)}/usage", ADMIN, query=query, headers={"Accept": "text/csv"}
    )
    assert answer.status_code == 200, answer.text
    wanted = list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
    names = [name for name in wanted[0] if name in lines[0]]
    assert names[-5:] == FIGURES
    assert [[line[name] for name in names] for line in lines] == [
        [line[name] for name in names] for line in wanted
    ]


@pytest.mark.parametrize("group_by", ["model", "none", "client", "model,metadata.region"])
def test_local_hours_and_days_are_those_of_the_usage_answer_and_sum_to_its_totals(
    client: ExportClient, exports: Exports, events: list[Event], group_by: str
) -> None:
    for time_zone in ("America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Etc/UTC"):
        cut = {"groupBy": group_by, "timeZone": time_zone}
        with exports.worker():
            jobs = {
                granularity: client.create(timeRange=WINDOW, granularity=granularity, **cut)
                for granularity in ("hourly", "daily", "monthly")
            }
            files = {granularity: client.file(job) for granularity, job in jobs.items()}
        for granularity, grain in (("hourly", "hour"), ("daily", "day")):
            file = files[granularity]
            assert_same_rows(client, file.lines, granularity=grain, **cut)
            usage = client.usage(**WINDOW, granularity=grain, **cut)
            assert file.totals() == {name: usage["totals"][name] for name in file.totals()}
            assert file.job["timeRange"] == {"start": usage["start"], "end": usage["end"]}
        assert files["monthly"].totals() == files["daily"].totals()
        assert files["monthly"].job["timeRange"] == files["daily"].job["timeRange"]


def test_a_month_sums_only_its_local_days_inside_the_window_and_is_named_by_its_first(
    client: ExportClient, exports: Exports, owner: connection, worker: Database
) -> None:
    put(
        owner,
        worker,
        [
            an_event("2026-10-19T21:59:59Z", clientId="out"),  # the 19th in Berlin
            an_event("2026-10-19T22:00:00Z", clientId="web"),
            an_event("2026-10-31T22:59:59.999999Z", clientId="web"),  # still October
            an_event("2026-10-31T23:00:00Z", clientId="web"),
            an_event("2026-11-02T22:59:59Z"),
            an_event("2026-11-02T23:00:00Z", clientId="out"),
        ],
    )
    with exports.worker():
        file = client.deliver(
            timeRange={"start": "2026-10-20T12:00:00+02:00", "end": "2026-11-02T01:00:00+01:00"},
            granularity="monthly",
            groupBy="client",
            timeZone="Europe/Berlin",
        )
    assert file.job["timeRange"] == {"start": "2026-10-20T00:00:00+02:00", "end": "2026-11-03T00:00:00+01:00"}
    assert [list(line.values()) for line in file.lines] == [
        ["2026-10-01T00:00:00+02:00", org(0), "web", "2", "0", str(2 * 10**12), "14", "0.00003"],
        ["2026-11-01T00:00:00+01:00", org(0), "web", "1", "0", str(10**12), "7", "0.000015"],
        ["2026-11-01T00:00:00+01:00", org(0), "", "1", "0", str(10**12), "7", "0.000015"],
    ]


def test_a_local_day_has_all_of_its_hours_and_no_other(
    client: ExportClient, exports: Exports, owner: connection, worker: Database
) -> None:
    days = (
        ("America/New_York", "2026-11-01", 25),
        ("America/New_York", "2027-03-14", 23),
        ("Asia/Kathmandu", "2026-12-01", 24),
        ("Asia/Kolkata", "2026-12-10", 24),
    )
    quarters = [
        an_event((datetime.fromisoformat(f"{day}T12:00:00Z") + timedelta(minutes=15 * at)).isoformat())
        for _, day, _ in days
        for at in range(-160, 160)
    ]
    put(owner, worker, quarters)
    with exports.worker():
        for zone, day, hours in days:
            window = {"start": f"{day}T12:00:00Z", "end": f"{day}T12:00:01Z"}
            cut = {"groupBy": "none", "timeZone": zone}
            file = client.deliver(timeRange=window, granularity="daily", **cut)
            [line] = file.lines
            assert line["bucket_start"] == file.job["timeRange"]["start"]
            assert line["invocations"] == str(4 * hours), (zone, day)
            by_hour = client.deliver(timeRange=file.job["timeRange"], granularity="hourly", **cut)
            assert [line["invocations"] for line in by_hour.lines] == ["4"] * hours
            assert len({line["bucket_start"] for line in by_hour.lines}) == hours


def test_cells_are_safe_in_spreadsheets_and_no_value_is_not_added_to_an_empty_one(
    client: ExportClient, exports: Exports, owner: connection, worker: Database
) -> None:
    at = "2026-11-03T00:00:00Z"
    names = ["=1+1", "a,b", 'say "hi"', "two\r\nlines", "\rx", "", None]
    put(
        owner,
        worker,
        [an_event(at, metadata={} if name is None else {"region": name}, modelId="@m") for name in names],
    )
    with exports.worker():
        file = client.deliver(timeRange=WINDOW, groupBy="model,metadata.region")
    assert {line["metadata.region"] for line in file.lines} == {
        "'=1+1", "a,b", 'say "hi"', "two\r\nlines", "'\rx", "",
    }  # fmt: skip
    assert {line["model_id"] for line in file.lines} == {"'@m"}
    assert [line["invocations"] for line in file.lines] == ["1"] * len(names), "none is not an empty text"


def test_a_models_filter_stands_beside_a_cut(
    client: ExportClient, exports: Exports, events: list[Event]
) -> None:
    model = events[0]["modelId"]
    with exports.worker():
        file = client.deliver(timeRange=WINDOW, groupBy="client", models=[model], compression="none")
    assert_same_rows(client, file.lines, groupBy="client", modelId=model)


LONG_AGO = {"start": "1800-01-01T00:00:00Z", "end": "1800-01-02T00:00:00Z"}
FAR_OFF = {"start": "9999-12-31T00:00:00Z", "end": "9999-12-31T20:00:00Z"}
YEAR_ONE = {"start": "0001-01-01T00:00:00Z", "end": "0001-01-02T00:00:00Z"}
TOO_LONG = {"start": "2026-10-20T00:00:00Z", "end": "2026-11-20T00:00:01Z"}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"groupBy": "colour"}, "groupBy", "client, actor, apiKey"),
    ({"groupBy": "client,actor"}, "groupBy", "at most one dimension"),
    ({"groupBy": "org"}, "groupBy", "none, or model"),
    ({"groupBy": "model,model"}, "groupBy", "none, or model"),
    ({"groupBy": ""}, "groupBy", "1 to 200"),
    ({"groupBy": None}, "groupBy", "1 to 200"),
    ({"groupBy": ["model"]}, "groupBy", "1 to 200"),
    ({"groupBy": "metadata.colour"}, "groupBy", "metadata.region"),
    ({"groupBy": "actor", "granularity": "hourly"}, "granularity", "actor (days only)"),
    ({"groupBy": "actor", "timeZone": "Asia/Tokyo"}, "timeZone", "only days are kept"),
    ({"timeZone": "Mars/Base"}, "timeZone", "IANA"),
    ({"timeZone": "utc"}, "timeZone", "IANA"),
    ({"timeZone": None}, "timeZone", "must be"),
    ({"timeZone": "Asia/Kolkata", "timeRange": LONG_AGO}, "timeZone", "quarter hour"),
    ({"timeZone": "Asia/Tokyo", "timeRange": YEAR_ONE}, "timeRange.start", "too early"),
    ({"timeZone": "America/Lima", "timeRange": YEAR_ONE}, "timeRange.start", "too early"),
    ({"timeZone": "Asia/Tokyo", "granularity": "monthly", "timeRange": YEAR_ONE}, "timeRange.start", "early"),
    ({"timeZone": "America/Lima", "timeRange": FAR_OFF}, "timeRange.end", "too late"),
    ({"timeZone": "Asia/Tokyo", "timeRange": FAR_OFF}, "timeRange.end", "too late"),
    ({"timeZone": "Asia/Tokyo", "timeRange": TOO_LONG}, "timeRange.end", "31 days"),
]


def test_what_cannot_be_exported_is_a_400_that_names_the_field_and_what_there_is(
    client: ExportClient, worker: Database
) -> None:
    for body, field, said in REFUSED:
        answer = client.post(**{"timeRange": WINDOW} | body)
        assert_problem(answer, 400, field)
        assert said in read(answer)["errors"][0]["reason"], body
    answer = client.post(timeRange=WINDOW, groupBy="x", timeZone="y", granularity="z", colour="red")
    assert {fault["field"] for fault in read(answer)["errors"]} == {
        "groupBy", "timeZone", "granularity", "colour",
    }  # fmt: skip


def test_exactly_31_days_are_allowed_in_a_zone_whose_days_are_longer(
    client: ExportClient, worker: Database
) -> None:
    job = client.create(
        timeRange={"start": "2026-10-15T12:00:00Z", "end": "2026-11-15T12:00:00Z"},
        timeZone="America/New_York",
    )
    assert job["timeRange"] == {"start": "2026-10-15T00:00:00-04:00", "end": "2026-11-16T00:00:00-05:00"}
    long_ago = {
        "start": "1867-10-01T12:00:00Z",
        "end": "1867-11-01T12:00:00Z",
    }  # with a day of 48 hours
    for granularity in ("hourly", "daily", "monthly"):
        for name in ("America/Juneau", "Pacific/Apia", "Africa/Monrovia"):
            answer = client.post(timeRange=long_ago, timeZone=name, granularity=granularity)
            assert answer.status_code in {202, 400}


def test_a_job_shows_its_cut_wherever_it_is_shown_and_a_key_belongs_to_it(
    client: ExportClient, worker: Database
) -> None:
    asked = {"timeRange": WINDOW, "groupBy": "client,model", "timeZone": "Asia/Kolkata"}
    first = client.post(key="k", **asked)
    job = read(first)
    assert (job["groupBy"], job["timeZone"]) == ("model,client", "Asia/Kolkata")
    assert job["timeRange"] == {"start": "2026-10-20T00:00:00+05:30", "end": "2026-11-15T00:00:00+05:30"}
    assert client.job(job["jobId"]) == job
    assert client.gateway.get(f"/orgs/{org(0)}/exports", ADMIN)["jobs"] == [job]
    assert read(client.post(key="k", **asked | {"groupBy": "model,client"})) == job
    for change in (
        {"groupBy": "client"},
        {"groupBy": "model"},
        {"timeZone": "Asia/Colombo"},
        {"timeZone": "UTC"},
    ):
        assert_problem(client.post(key="k", **asked | change), 422)


def test_a_key_finds_its_job_also_when_its_dimension_is_no_longer_kept(
    client: ExportClient, exports: Exports, events: list[Event], worker: Database
) -> None:
    job = client.create(key="k", timeRange=WINDOW, groupBy="client")
    drop_dimension(worker, "client")
    assert client.create(key="k", timeRange=WINDOW, groupBy="client") == job
    assert_problem(client.post(timeRange=WINDOW, groupBy="client"), 400, "groupBy")
    with exports.worker():
        done = client.finished(job)
    assert done["status"] == "failed"
    assert "client is not kept as a dimension; kept are" in done["error"]
    [row] = exports.rows("SELECT attempt FROM analytics.export_jobs")
    assert row == {"attempt": 1}, "what is gone does not come back"


def test_dropped_raw_events_are_never_shown_as_none(
    client: ExportClient, exports: Exports, events: list[Event], owner: connection
) -> None:
    """Days in Nepal begin a quarter of an hour into an hour of UTC, which only raw events can split."""
    asked: dict[str, Any] = {"timeRange": WINDOW, "timeZone": "Asia/Kathmandu"}
    job = client.create(**asked)
    with owner.cursor() as cur:
        cur.execute("INSERT INTO analytics.dropped_days (day, what) VALUES (%s, 'events')", [START.date()])
    refused = client.post(**asked)
    assert_problem(refused, 400, "timeRange.start")
    assert "2026-10-21T00:00:00Z" in read(refused)["errors"][0]["reason"]
    with exports.worker():
        done = client.finished(job)
        assert done["status"] == "failed"
        assert "2026-10-21T00:00:00Z" in done["error"]
        assert client.deliver(timeRange=WINDOW, timeZone="America/New_York").lines


def test_a_file_that_lacks_values_of_its_dimension_says_since_when_it_has_them(
    client: ExportClient, exports: Exports, events: list[Event], owner: connection
) -> None:
    with owner.cursor() as cur:
        since = "UPDATE analytics.rollup_dimensions SET complete_since = '2026-11-01T00:00:00Z'"
        cur.execute(f"{since} WHERE name = 'client'")
    with exports.worker():
        by_client = client.deliver(timeRange=WINDOW, groupBy="client")
        by_key = client.deliver(timeRange=WINDOW, groupBy="apiKey")
    assert by_client.job["completeSince"] == "2026-11-01T00:00:00Z"
    assert by_key.job["completeSince"] is None


def test_large_files_are_read_in_the_order_of_the_primary_key(
    exports: Exports, owner: connection, worker: Database
) -> None:
    """Nothing is sorted or gathered first: the first lines leave at once, however many there are."""
    with owner.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.rollups_client_days (org_id, bucket_start, model_id, value, invocations,"
            " errors, status_error, status_timeout, status_throttled, input_tokens, output_tokens,"
            " cached_input_tokens, cache_write_input_tokens, reasoning_tokens, cost_estimate_cents,"
            " success_output_tokens, success_latency_ms, latency_bins, latency_counts, first_token_bins,"
            " first_token_counts)"
            " SELECT %s, %s + day * interval '1 day', 'm' || model, 'c' || client,"
            " 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, '{1}', '{1}', '{}', '{}'"
            " FROM generate_series(0, 24) AS day, generate_series(1, 20) AS model,"
            " generate_series(1, 50) AS client",
            (org(0), START),
        )
        cur.execute("ANALYZE analytics.rollups_client_days")
        window = {"grain": 1440, "first": 0, "start": START, "end": END}
        cut = {"org_id": org(0), "dimension": "client", "by_value": True, "model_ids": None}
        cur.execute("BEGIN")
        read_kept(cur)  # the worker's transaction begins with it, and it says how a cut is planned
        cur.execute("EXPLAIN " + load_statements("export_csv.sql")["stored"], window | cut)
        plan = "\n".join(row[0] for row in cur.fetchall())
        cur.execute("COMMIT")
    assert "Index Scan using rollups_client_days_pkey" in plan, plan
    assert "Sort" not in plan, plan


def test_lines_of_a_cut_are_plain_decimals(
    client: ExportClient, exports: Exports, events: list[Event]
) -> None:
    with exports.worker():
        file = client.deliver(timeRange=WINDOW, groupBy="model,client", timeZone="Asia/Kolkata")
    for line in file.lines:
        assert all(re.fullmatch(r"\d+(\.\d*[1-9])?", line[name]) for name in FIGURES), line
