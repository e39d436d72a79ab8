"""Incident exports: exactly the events asked for, safe to open, readable alike by every reader."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import falcon.testing
import psutil
import pytest
from psycopg2.extensions import connection

from deploy.local.traffic import Event, Router, org
from gateway.app import create_app
from gateway.incidents import COLUMNS, IncidentExporter, IncidentRequest
from shared.errors import DatabaseUnavailable
from shared.settings import GatewaySettings, load
from tests.support.csv_cells import NOT_RUN, RUN
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch

NOW = datetime.now(UTC).replace(microsecond=0)
START = NOW - timedelta(hours=2)
HEADERS = {"X-Actor-Subject": "oncall", "X-Actor-Roles": "analytics:incidents:export", "X-Actor-Orgs": org(0)}
URL = f"/analytics/v1/orgs/{org(0)}/incidents/export"


@pytest.fixture
def client(environ: dict[str, str]) -> falcon.testing.TestClient:
    settings = load(GatewaySettings, environ | {"DATABASE_URL": environ["GATEWAY_DATABASE_URL"]})
    return falcon.testing.TestClient(create_app(settings))


def utc_text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def export(client: falcon.testing.TestClient, **params: str) -> tuple[list[dict[str, str]], Any]:
    window = {"start": utc_text(START), "end": utc_text(NOW)}
    answer = client.simulate_get(URL, params=window | params, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text, newline=""))), answer.headers


def traffic(count: int, orgs: int = 2) -> list[Event]:
    return Router(seed=count, start=START, end=NOW, orgs=orgs, error_share=0.3).events(count)


def test_the_file_holds_exactly_the_events_of_the_window_in_order(
    owner: connection, client: falcon.testing.TestClient
) -> None:
    events = traffic(5_000)
    insert_batch(owner, events)
    rows, headers = export(client)
    wanted = sorted(
        (event for event in events if event["orgId"] == org(0)),
        key=lambda event: (datetime.fromisoformat(event["occurredAt"]), event["eventId"]),
    )
    assert headers["X-Truncated"] == "false"
    assert headers["Content-Type"].startswith("text/csv")
    assert list(rows[0]) == list(COLUMNS)
    assert [row["event_id"] for row in rows] == [event["eventId"] for event in wanted]
    for row, event in zip(rows, wanted, strict=True):
        assert datetime.fromisoformat(row["occurred_at"]) == datetime.fromisoformat(event["occurredAt"])
        assert row["occurred_at"].endswith("Z")
        assert Decimal(row["cost_estimate_cents"]) == event["costEstimateCents"]
        assert "E" not in row["cost_estimate_cents"]
        assert row["error_code"] == event.get("errorCode", "")
        assert json.loads(row["metadata"]) == event["metadata"]
        assert (row["model_id"], row["status"]) == (event["modelId"], event["status"])
        assert (row["input_tokens"], row["latency_ms"]) == (
            str(event["inputTokens"]),
            str(event["latencyMs"]),
        )


def test_an_export_whose_database_fails_half_way_ends_with_that(
    owner: connection, environ: dict[str, str]
) -> None:
    insert_batch(owner, traffic(3_000, orgs=1))
    exporter = IncidentExporter.of(environ["GATEWAY_DATABASE_URL"])
    pieces = iter(exporter.export(IncidentRequest(org(0), START, NOW)))
    assert next(pieces)
    with owner.cursor() as cur:
        cur.execute(
            "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
            " WHERE usename = 'gateway' AND datname = current_database()"
        )
    with pytest.raises(DatabaseUnavailable):
        next(pieces)


def test_the_window_is_half_open_and_not_widened(
    owner: connection, client: falcon.testing.TestClient
) -> None:
    edges = [event | {"orgId": org(0)} for event in traffic(3)]
    for event, instant in zip(edges, (START, NOW - timedelta(microseconds=1), NOW), strict=True):
        event["occurredAt"] = utc_text(instant)
    insert_batch(owner, edges)
    rows, _ = export(client)
    assert [row["event_id"] for row in rows] == [event["eventId"] for event in edges[:2]]


def test_filters_and_rows_cut_off_are_told(owner: connection, client: falcon.testing.TestClient) -> None:
    events = traffic(600, orgs=1)
    insert_batch(owner, events)
    model = events[0]["modelId"]
    rows, _ = export(client, modelId=model, status="timeout")
    assert len(rows) == sum(event["modelId"] == model and event["status"] == "timeout" for event in events)
    rows, headers = export(client, maxRows="599")
    assert (len(rows), headers["X-Truncated"]) == (599, "true")
    rows, headers = export(client, maxRows="600")
    assert (len(rows), headers["X-Truncated"]) == (600, "false")


def test_cells_that_a_spreadsheet_would_run_are_neutralised_and_all_else_is_kept(
    owner: connection, client: falcon.testing.TestClient
) -> None:
    texts = [*RUN, *NOT_RUN, 'quo"ted, and\nbroken', "'", "a\rb"]
    events = [
        event | {"modelId": text, "errorCode": text}
        for event, text in zip(traffic(len(texts), 1), texts, strict=True)
    ]
    insert_batch(owner, events)
    rows, _ = export(client)
    found = {row["event_id"]: row for row in rows}
    for event, text in zip(events, texts, strict=True):
        safe = f"'{text}" if text in RUN else text
        assert found[event["eventId"]]["model_id"] == safe
        assert found[event["eventId"]]["error_code"] == safe


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"status": "failed"}, "status"),
        ({"maxRows": "0"}, "maxRows"),
        ({"maxRows": "1000001"}, "maxRows"),
        ({"start": utc_text(NOW)}, "end"),
        ({"granularity": "hour"}, "granularity"),
    ],
)
def test_a_bad_parameter_is_named(
    client: falcon.testing.TestClient, params: dict[str, str], field: str
) -> None:
    window = {"start": utc_text(START), "end": utc_text(NOW)}
    answer = client.simulate_get(URL, params=window | params, headers=HEADERS)
    assert answer.status_code == 400
    assert [fault["field"] for fault in answer.json["errors"]] == [field]


def test_the_command_writes_the_same_file(
    owner: connection, client: falcon.testing.TestClient, database: TestDatabase
) -> None:
    insert_batch(owner, traffic(300))
    window = {"start": utc_text(START), "end": utc_text(NOW)}
    over_http = client.simulate_get(URL, params=window | {"maxRows": "100"}, headers=HEADERS)
    command = [sys.executable, "-m", "gateway.incidents", "--org", org(0).upper(), "--max-rows", "100"]
    done = subprocess.run(
        [*command, "--start", utc_text(START), "--end", utc_text(NOW)],
        env={**os.environ, "DATABASE_URL": database.gateway_url},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == over_http.content
    assert b"cut off at 100" in done.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"--max-rows": "0"}, ["--max-rows"]),
        ({"--max-rows": "-1"}, ["--max-rows"]),
        ({"--max-rows": "5000000"}, ["--max-rows"]),
        ({"--start": utc_text(NOW), "--end": utc_text(START)}, ["--end"]),
        ({"--start": utc_text(NOW), "--end": utc_text(NOW)}, ["--end"]),
        ({"--start": "yesterday", "--end": "2026-11-01"}, ["--start", "--end"]),
        ({"--status": "good", "--model": ""}, ["--status", "--model"]),
        ({"--org": "me"}, ["--org"]),
    ],
)
def test_the_command_refuses_what_http_refuses(options: dict[str, str], named: list[str]) -> None:
    given = {"--org": org(0), "--start": utc_text(START), "--end": utc_text(NOW)} | options
    done = subprocess.run(
        [sys.executable, "-m", "gateway.incidents", *(f"{name}={value}" for name, value in given.items())],
        env={**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for name in named:
        assert re.search(rf"{name}\b", done.stderr.partition("error:")[2])


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_rows": 0},
        {"max_rows": 1_000_001},
        {"status": "good"},
        {"end": START},
        {"start": START.replace(tzinfo=None)},
    ],
)
def test_the_library_refuses_what_http_refuses(wrong: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"org_id": org(0), "start": START, "end": NOW} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IncidentRequest(**asked)


def test_memory_does_not_grow_with_the_rows(owner: connection, database: TestDatabase) -> None:
    with owner.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.usage_events"
            " (org_id, occurred_at, event_id, batch_id, received_at, model_id,"
            " status, latency_ms, input_tokens, output_tokens, cost_estimate_cents, metadata)"
            " SELECT %s, %s::timestamptz + n * interval '1 ms', gen_random_uuid(), 1, now(), 'model',"
            " 'success', n, n, n, n, jsonb_build_object('n', repeat('x', 200))"
            " FROM generate_series(1, 100000) AS n",
            (org(0), START),
        )
    exporter = IncidentExporter.of(database.gateway_url)
    me = psutil.Process()

    def read(max_rows: int) -> int:
        rows = 0
        with exporter.export(IncidentRequest(org(0), START, NOW, max_rows=max_rows)) as incident:
            for piece in incident:
                rows += piece.count(b"\n")
        return rows - 1

    assert read(5_000) == 5_000
    before = me.memory_info().rss
    assert read(100_000) == 100_000
    assert me.memory_info().rss - before < 16 * 1024 * 1024


def test_a_reader_that_leaves_gives_the_connection_back(owner: connection, database: TestDatabase) -> None:
    insert_batch(owner, traffic(3_000, orgs=1))
    exporter = IncidentExporter.of(database.gateway_url, connections=1)
    for _ in range(3):
        with exporter.export(IncidentRequest(org(0), START, NOW)) as incident:
            next(iter(incident))
    unread = exporter.export(IncidentRequest(org(0), START, NOW))
    unread.close()
    with exporter.export(IncidentRequest(org(0), START, NOW)) as incident:
        assert sum(piece.count(b"\n") for piece in incident) == 3_001
