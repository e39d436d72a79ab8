"""The commands for dimensions: verify, rebuild, backfill and drop, and that every group stays exact."""

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from psycopg2.extensions import connection

from deploy.local.checkout import ROOT
from rollup_worker.dimensions import drop_dimension, keep_dimensions
from rollup_worker.remake import backfill
from rollup_worker.verify import rebuild
from shared.buckets import bucket_start
from shared.errors import AnalyticsError
from shared.postgres import Database
from shared.settings import KeptDimension
from tests.support.cuts import DIMENSIONS, expected, stored
from tests.support.dimensions import ALL, NOW, differences, drain, execute, insert, mix, row, window
from tests.support.places import TestDatabase


def test_verify_names_the_group_that_differs_and_rebuild_mends_it(
    owner: connection, worker: Database
) -> None:
    keep_dimensions(worker, ALL)
    events = mix(150, days=1)
    insert(owner, events)
    drain(worker)
    faults = {
        "UPDATE analytics.rollups_client_hours SET output_tokens = output_tokens + 1": "client ",
        "UPDATE analytics.rollups_api_key_days SET reasoning_tokens = reasoning_tokens + 1": "parts of",
        "UPDATE analytics.rollups_provider_hours SET first_token_counts[1] = first_token_counts[1] + 1"
        " WHERE first_token_counts <> '{}'": "first tokens' histogram",
        "DELETE FROM analytics.rollups_metadata_1_days": "metadata.region",
        "UPDATE analytics.hourly_rollups SET success_latency_ms = success_latency_ms + 1": "parts of tokens",
    }
    for fault, named in faults.items():
        with owner.cursor() as cur:  # an hour of a group may have a row for each half
            cur.execute(f"{fault} RETURNING org_id, bucket_start, model_id, value")
            changed = {(org_id, at.replace(minute=0), *group) for org_id, at, *group in cur.fetchall()}
        assert changed
        found = [line for line in differences(worker) if "first half" not in line]
        assert len(found) == len(changed)
        assert named in found[0]
        rebuild(worker, window(days=3), lambda _: None)
        assert differences(worker) == [], fault
    assert stored(owner) == expected(events)


def test_a_dimension_that_begins_later_says_since_when_and_is_backfilled_while_batches_come(
    owner: connection, database: TestDatabase, worker: Database
) -> None:
    before, after = mix(400), mix(400, seed=5)
    insert(owner, before)
    drain(worker)
    keep_dimensions(worker, ALL)
    since = row(owner, "client")["complete_since"]
    newest = max(datetime.fromisoformat(event["occurredAt"]) for event in before)
    assert since == bucket_start(newest, "hour") + timedelta(hours=1)
    done = threading.Event()
    failures: list[Exception] = []

    def work() -> None:
        own = Database(database.rollup_worker_url, application_name="worker beside a backfill")
        try:
            while not done.is_set():
                drain(own)
            drain(own)
        except Exception as error:  # noqa: BLE001  looked at below
            failures.append(error)
        own.close()

    beside = threading.Thread(target=work)
    beside.start()
    said: list[str] = []
    for at, name in enumerate(DIMENSIONS):
        insert(owner, after[at::6])
        backfill(worker, name, None, said.append)
        assert row(owner, name)["complete_since"] is None
        assert said[-1] == f"{name} is complete"
    done.set()
    beside.join()
    assert failures == []
    assert stored(owner) == expected(before + after)
    assert differences(worker) == []


def test_a_backfill_goes_on_where_it_stood_and_stops_where_it_is_told(
    owner: connection, worker: Database
) -> None:
    events = mix(300)
    insert(owner, events)
    drain(worker)
    keep_dimensions(worker, (KeptDimension("client"),))
    first = bucket_start(NOW, "day") - timedelta(days=1)
    said: list[str] = []
    backfill(worker, "client", first, said.append)
    assert row(owner, "client")["complete_since"] == first
    kept = [event for event in events if datetime.fromisoformat(event["occurredAt"]) >= first]
    assert stored(owner, ["client"]) == expected(kept, ["client"])
    days = len(said) - 1
    backfill(worker, "client", None, said.append)
    assert len(said) - days - 2 <= 3, "days that were done are done again"
    assert stored(owner, ["client"]) == expected(events, ["client"])


def test_a_backfill_leaves_days_alone_whose_events_were_dropped(owner: connection, worker: Database) -> None:
    events = mix(300)
    keep_dimensions(worker, (KeptDimension("client"),))
    insert(owner, events)
    drain(worker)
    before = stored(owner, ["client"])
    gone = bucket_start(NOW, "day") - timedelta(days=1)
    execute(owner, "UPDATE analytics.rollup_dimensions SET complete_since = now() WHERE name = 'client'")
    execute(owner, "INSERT INTO analytics.dropped_days (day, what) VALUES (%s, 'events')", gone.date())
    execute(owner, "DELETE FROM analytics.usage_events WHERE occurred_at < %s", gone + timedelta(days=1))
    said: list[str] = []
    backfill(worker, "client", None, said.append)
    assert "older raw events were dropped" in said[-1]
    assert stored(owner, ["client"]) == before
    assert row(owner, "client")["complete_since"] == gone + timedelta(days=1)


@pytest.fixture
def command(database: TestDatabase) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, dimensions: str = "", answer: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rollup_worker", *arguments],
            cwd=ROOT,
            env={"DATABASE_URL": database.rollup_worker_url, "ROLLUP_DIMENSIONS": dimensions},
            input=answer,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_dimension_is_dropped_only_when_that_is_said_twice(
    owner: connection,
    worker: Database,
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    keep_dimensions(worker, (KeptDimension("client"), KeptDimension("metadata.region")))
    insert(owner, mix(50))
    drain(worker)
    assert "still names client" in command("drop-dimension", "client", "--yes", dimensions="client").stderr
    assert "nothing was dropped" in command("drop-dimension", "client", answer="yes\n").stderr
    assert "nothing was dropped" in command("drop-dimension", "client").stderr
    assert stored(owner, ["client"])
    dropped = command("drop-dimension", "client", answer="client\n")
    assert dropped.returncode == 0, dropped.stderr
    assert command("drop-dimension", "metadata.region", "--yes").returncode == 0
    with owner.cursor() as cur:
        cur.execute("SELECT name FROM analytics.rollup_dimensions ORDER BY name")
        assert cur.fetchall() == [("",), ("errorCode",)]
        cur.execute("SELECT count(*) FROM analytics.rollups WHERE dimension = 'client'")
        assert cur.fetchall() == [(0,)]
    again = command("drop-dimension", "client", "--yes")
    assert again.returncode == 1
    assert "is not kept" in again.stderr
    assert command("drop-dimension", "", "--yes").returncode == 1, "models are no dimension to drop"
    # It may begin again, and the rest goes on.
    keep_dimensions(worker, (KeptDimension("client"),))
    insert(owner, mix(50, seed=9))
    drain(worker)
    assert stored(owner, ["client"])


def test_the_commands_say_what_they_cannot_do(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    unknown = command("backfill", "--dimension", "client")
    assert unknown.returncode == 1
    assert "client is not kept" in unknown.stderr
    assert command("backfill").returncode == 2
    assert command("backfill", "--dimension", "client", "--from", "yesterday").returncode == 2


def test_dropping_what_is_not_kept_and_keeping_nonsense_are_refused(worker: Database) -> None:
    assert drop_dimension(worker, "client") is False
    with pytest.raises(AnalyticsError):
        keep_dimensions(worker, (KeptDimension('x"; DROP'),))
