"""Rollups by dimension: every group is exact, and stays so through rebuild, backfill, kills and drops."""

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.checkout import ROOT
from deploy.local.traffic import Event
from rollup_worker.days import Days
from rollup_worker.dimensions import drop_dimension, keep_dimensions
from rollup_worker.remake import backfill
from rollup_worker.rollups import Rollups
from rollup_worker.verify import Window, rebuild, verify
from shared.buckets import bucket_start
from shared.errors import AnalyticsError, DependencyError
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.process import Stop
from shared.settings import KeptDimension, RollupWorkerSettings, load
from tests.support.cuts import DIMENSIONS, Mix, expected, stored
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch

NOW = datetime.now(UTC)
ALL = tuple(KeptDimension(name) for name in DIMENSIONS)


@pytest.fixture
def worker_database(database: TestDatabase) -> Iterator[Database]:
    """A connection in the worker's own role."""
    opened = Database(database.rollup_worker_url, application_name="dimensions under test")
    yield opened
    opened.close()


def drain(database: Database) -> int:
    rollups = Rollups(database, RollupMetrics(CollectorRegistry()))
    total = 0
    while added := rollups.add_waiting():
        total += added
    return total


def mix(count: int, seed: int = 1, days: int = 3) -> list[Event]:
    """Events of some days, of the running hour and of the day ahead."""
    events = Mix(seed, start=NOW - timedelta(days=days), end=NOW + timedelta(hours=20)).events(count)
    return events + Mix(seed + 1000, start=NOW - timedelta(minutes=1), end=NOW).events(count // 5)


def window(days: int = 5) -> Window:
    end = bucket_start(NOW, "day") + timedelta(days=2)
    return Window(end - timedelta(days=days), end)


def differences(database: Database) -> list[str]:
    said: list[str] = []
    verify(database, window(), said.append)
    return [line for line in said if line.startswith("DIFFERS")]


def insert(owner: connection, events: list[Event], size: int = 70) -> None:
    for at in range(0, len(events), size):
        insert_batch(owner, events[at : at + size])


def row(owner: connection, name: str) -> dict[str, Any]:
    with owner.cursor() as cur:
        cur.execute(
            "SELECT keeps_hours, hours_kept, complete_since, days_until FROM analytics.rollup_dimensions"
            " WHERE name = %s",
            (name,),
        )
        found = cur.fetchone()
    assert found is not None
    return dict(zip(("keeps_hours", "hours_kept", "complete_since", "days_until"), found, strict=True))


def execute(owner: connection, sql: str, *parameters: object) -> int:
    with owner.cursor() as cur:
        cur.execute(sql, parameters)
        return int(cur.rowcount)


def assert_groups_sum_to_models(owner: connection) -> None:
    """No group exceeds its model, and what has no value is what is left: so all of them sum to the totals."""
    rows = stored(owner, ("", *DIMENSIONS))
    models = {(key[0], *key[2:5]): sums[0] for key, sums in rows.items() if key[1] == ""}
    for dimension in DIMENSIONS:
        left = dict(models)
        for key, sums in rows.items():
            if key[1] == dimension:
                left[key[0], *key[2:5]] -= sums[0]
        assert min(left.values(), default=0) >= 0


@pytest.mark.parametrize("seed", [1, 2])
def test_every_group_of_every_dimension_and_grain_is_exact(
    owner: connection, worker_database: Database, seed: int
) -> None:
    keep_dimensions(worker_database, ALL)
    events = mix(600, seed)
    insert(owner, events)
    drain(worker_database)
    assert stored(owner) == expected(events)
    assert_groups_sum_to_models(owner)
    assert differences(worker_database) == []


def test_error_codes_count_failures_alone(owner: connection, worker_database: Database) -> None:
    events = mix(300)
    insert(owner, events)
    drain(worker_database)
    counts = {key: sums[0] for key, sums in stored(owner, ["errorCode"]).items()}
    assert counts == {key: sums[0] for key, sums in expected(events, ["errorCode"]).items()}


def test_past_hours_go_to_their_days_once_and_late_events_to_both(
    owner: connection, worker_database: Database
) -> None:
    keep_dimensions(worker_database, ALL)
    early, late = mix(400, days=1), mix(400, seed=7, days=1)
    # As if the worker had begun a day ago.
    execute(
        owner,
        "UPDATE analytics.rollup_dimensions SET days_until = days_until - interval '1 day'"
        " WHERE days_until IS NOT NULL",
    )
    insert(owner, early)
    drain(worker_database)
    assert stored(owner) == expected(early)
    days = Days(worker_database)
    days.add_past_hours(Stop())
    until = row(owner, "client")["days_until"]
    assert timedelta(0) <= NOW - until < timedelta(hours=1, minutes=15)
    assert stored(owner) == expected(early)
    insert(owner, late)
    drain(worker_database)
    days.add_past_hours(Stop())
    assert stored(owner) == expected(early + late)
    assert differences(worker_database) == []


def test_verify_names_the_group_that_differs_and_rebuild_mends_it(
    owner: connection, worker_database: Database
) -> None:
    keep_dimensions(worker_database, ALL)
    events = mix(150, days=1)
    insert(owner, events)
    drain(worker_database)
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
        found = [line for line in differences(worker_database) if "first half" not in line]
        assert len(found) == len(changed)
        assert named in found[0]
        rebuild(worker_database, window(days=3), lambda _: None)
        assert differences(worker_database) == [], fault
    assert stored(owner) == expected(events)


def test_a_dimension_that_begins_later_says_since_when_and_is_backfilled_while_batches_come(
    owner: connection, database: TestDatabase, worker_database: Database
) -> None:
    before, after = mix(400), mix(400, seed=5)
    insert(owner, before)
    drain(worker_database)
    keep_dimensions(worker_database, ALL)
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

    worker = threading.Thread(target=work)
    worker.start()
    said: list[str] = []
    for at, name in enumerate(DIMENSIONS):
        insert(owner, after[at::6])
        backfill(worker_database, name, None, said.append)
        assert row(owner, name)["complete_since"] is None
        assert said[-1] == f"{name} is complete"
    done.set()
    worker.join()
    assert failures == []
    assert stored(owner) == expected(before + after)
    assert differences(worker_database) == []


def test_a_backfill_goes_on_where_it_stood_and_stops_where_it_is_told(
    owner: connection, worker_database: Database
) -> None:
    events = mix(300)
    insert(owner, events)
    drain(worker_database)
    keep_dimensions(worker_database, (KeptDimension("client"),))
    first = bucket_start(NOW, "day") - timedelta(days=1)
    said: list[str] = []
    backfill(worker_database, "client", first, said.append)
    assert row(owner, "client")["complete_since"] == first
    kept = [event for event in events if datetime.fromisoformat(event["occurredAt"]) >= first]
    assert stored(owner, ["client"]) == expected(kept, ["client"])
    days = len(said) - 1
    backfill(worker_database, "client", None, said.append)
    assert len(said) - days - 2 <= 3, "days that were done are done again"
    assert stored(owner, ["client"]) == expected(events, ["client"])


def test_a_backfill_leaves_days_alone_whose_events_were_dropped(
    owner: connection, worker_database: Database
) -> None:
    events = mix(300)
    keep_dimensions(worker_database, (KeptDimension("client"),))
    insert(owner, events)
    drain(worker_database)
    before = stored(owner, ["client"])
    gone = bucket_start(NOW, "day") - timedelta(days=1)
    execute(owner, "UPDATE analytics.rollup_dimensions SET complete_since = now() WHERE name = 'client'")
    execute(owner, "INSERT INTO analytics.dropped_days (day, what) VALUES (%s, 'events')", gone.date())
    execute(owner, "DELETE FROM analytics.usage_events WHERE occurred_at < %s", gone + timedelta(days=1))
    said: list[str] = []
    backfill(worker_database, "client", None, said.append)
    assert "older raw events were dropped" in said[-1]
    assert stored(owner, ["client"]) == before
    assert row(owner, "client")["complete_since"] == gone + timedelta(days=1)


def test_a_worker_killed_anywhere_leaves_no_trace(
    owner: connection, database: TestDatabase, worker_database: Database
) -> None:
    keep_dimensions(worker_database, ALL)
    events = mix(2_000)
    insert(owner, events, size=100)
    rng = random.Random(3)
    done = threading.Event()

    def kill() -> None:
        killer = psycopg2.connect(database.owner_url)
        killer.autocommit = True
        while not done.wait(rng.uniform(0.01, 0.15)):
            killer.cursor().execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database()"
                " AND application_name = 'dimensions under test' AND state <> 'idle'"
            )
        killer.close()

    killer = threading.Thread(target=kill)
    killer.start()
    rollups = Rollups(worker_database, RollupMetrics(CollectorRegistry()))
    kills = rounds = 0
    while rounds < 400:
        rounds += 1
        try:
            if rollups.add_waiting() == 0:
                break
        except DependencyError:
            kills += 1
        if kills > 8:
            done.set()
    done.set()
    killer.join()
    drain(worker_database)
    assert kills > 0
    assert stored(owner) == expected(events)
    assert differences(worker_database) == []


def test_workers_with_different_settings_leave_no_hole(
    owner: connection, database: TestDatabase, worker_database: Database
) -> None:
    keep_dimensions(worker_database, (KeptDimension("client"),))
    other = Database(database.rollup_worker_url, application_name="another worker")
    keep_dimensions(other, (KeptDimension("provider"),))
    events = mix(200)
    insert(owner, events)
    drain(worker_database)
    other.close()
    assert stored(owner, ["client", "provider"]) == expected(events, ["client", "provider"])


def test_batches_of_the_release_before_are_noticed(owner: connection, worker_database: Database) -> None:
    keep_dimensions(worker_database, (KeptDimension("client"),))
    assert row(owner, "client")["complete_since"] is None
    insert(owner, mix(50))
    newest = NOW - timedelta(hours=7)
    batch_id = insert_batch(owner, Mix(1, start=NOW - timedelta(hours=8), end=newest).events(20))
    # As that release does it.
    execute(
        owner,
        "UPDATE analytics.ingestion_batches SET rolled_up_at = clock_timestamp() WHERE batch_id = %s",
        batch_id,
    )
    for name in ("client", ""):
        since = row(owner, name)["complete_since"]
        assert newest - timedelta(hours=1) < since <= newest + timedelta(hours=1)
    drain(worker_database)
    assert row(owner, "client")["complete_since"] == since, "batches of this release are whole"


def test_days_alone_keep_no_hours_and_hours_may_go_sooner(
    owner: connection, worker_database: Database
) -> None:
    settings = load(
        RollupWorkerSettings,
        {"DATABASE_URL": "postgresql://x@y/z", "ROLLUP_DIMENSIONS": "actor:day,client:day:90d"},
    )
    keep_dimensions(worker_database, settings.rollup_dimensions)
    assert row(owner, "actor")["keeps_hours"] is False
    assert row(owner, "client")["hours_kept"] == timedelta(days=90)
    events = mix(200)
    insert(owner, events)
    drain(worker_database)
    wanted = {key: sums for key, sums in expected(events, ["actor"]).items() if key[2] == 1440}
    assert stored(owner, ["actor"], [1440]) == wanted
    keep_dimensions(worker_database, (KeptDimension("client", hours_kept=timedelta(days=9)),))
    assert row(owner, "client")["hours_kept"] == timedelta(days=9)


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
    worker_database: Database,
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    keep_dimensions(worker_database, (KeptDimension("client"), KeptDimension("metadata.region")))
    insert(owner, mix(50))
    drain(worker_database)
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
    keep_dimensions(worker_database, (KeptDimension("client"),))
    insert(owner, mix(50, seed=9))
    drain(worker_database)
    assert stored(owner, ["client"])


def test_the_commands_say_what_they_cannot_do(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    unknown = command("backfill", "--dimension", "client")
    assert unknown.returncode == 1
    assert "client is not kept" in unknown.stderr
    assert command("backfill").returncode == 2
    assert command("backfill", "--dimension", "client", "--from", "yesterday").returncode == 2


def test_dropping_what_is_not_kept_and_keeping_nonsense_are_refused(worker_database: Database) -> None:
    assert drop_dimension(worker_database, "client") is False
    with pytest.raises(AnalyticsError):
        keep_dimensions(worker_database, (KeptDimension('x"; DROP'),))


def test_a_read_of_one_cut_opens_one_part_by_its_key(owner: connection, worker_database: Database) -> None:
    keep_dimensions(worker_database, ALL)
    insert(owner, mix(2_000))
    drain(worker_database)
    with owner.cursor() as cur:
        cur.execute("ANALYZE analytics.rollups_client_hours")
        cur.execute(
            "EXPLAIN SELECT sum(invocations) FROM analytics.rollups WHERE org_id = %s"
            " AND dimension = 'client' AND grain = 60 AND bucket_start >= %s AND bucket_start < %s",
            ("000a11ce-0000-4000-8000-000000000001", NOW - timedelta(hours=2), NOW),
        )
        plan = "\n".join(line for (line,) in cur.fetchall())
    assert "rollups_client_hours_org" in plan
    assert "Append" not in plan
    assert "Seq Scan" not in plan
