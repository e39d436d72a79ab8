"""Rollups by dimension: every group is exact, and stays so when workers are killed or differ."""

import random
import threading
from datetime import timedelta

import psycopg2
import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from rollup_worker.days import Days
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.rollups import Rollups
from shared.errors import DependencyError
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.process import Stop
from shared.settings import KeptDimension, RollupWorkerSettings, load
from tests.support.cuts import DIMENSIONS, Mix, expected, stored
from tests.support.dimensions import ALL, NOW, differences, drain, execute, insert, mix, row
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch


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
    owner: connection, worker: Database, seed: int
) -> None:
    keep_dimensions(worker, ALL)
    events = mix(600, seed)
    insert(owner, events)
    drain(worker)
    assert stored(owner) == expected(events)
    assert_groups_sum_to_models(owner)
    assert differences(worker) == []


def test_error_codes_count_failures_alone(owner: connection, worker: Database) -> None:
    events = mix(300)
    insert(owner, events)
    drain(worker)
    counts = {key: sums[0] for key, sums in stored(owner, ["errorCode"]).items()}
    assert counts == {key: sums[0] for key, sums in expected(events, ["errorCode"]).items()}


def test_past_hours_go_to_their_days_once_and_late_events_to_both(
    owner: connection, worker: Database
) -> None:
    keep_dimensions(worker, ALL)
    early, late = mix(400, days=1), mix(400, seed=7, days=1)
    # As if the worker had begun a day ago.
    execute(
        owner,
        "UPDATE analytics.rollup_dimensions SET days_until = days_until - interval '1 day'"
        " WHERE days_until IS NOT NULL",
    )
    insert(owner, early)
    drain(worker)
    assert stored(owner) == expected(early)
    days = Days(worker)
    days.add_past_hours(Stop())
    until = row(owner, "client")["days_until"]
    assert timedelta(0) <= NOW - until < timedelta(hours=1, minutes=15)
    assert stored(owner) == expected(early)
    insert(owner, late)
    drain(worker)
    days.add_past_hours(Stop())
    assert stored(owner) == expected(early + late)
    assert differences(worker) == []


def test_a_worker_killed_anywhere_leaves_no_trace(
    owner: connection, database: TestDatabase, worker: Database
) -> None:
    keep_dimensions(worker, ALL)
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
                " AND application_name = 'rollups' AND state <> 'idle'"
            )
        killer.close()

    killer = threading.Thread(target=kill)
    killer.start()
    rollups = Rollups(worker, RollupMetrics(CollectorRegistry()))
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
    drain(worker)
    assert kills > 0
    assert stored(owner) == expected(events)
    assert differences(worker) == []


def test_workers_with_different_settings_leave_no_hole(
    owner: connection, database: TestDatabase, worker: Database
) -> None:
    keep_dimensions(worker, (KeptDimension("client"),))
    other = Database(database.rollup_worker_url, application_name="another worker")
    keep_dimensions(other, (KeptDimension("provider"),))
    events = mix(200)
    insert(owner, events)
    drain(worker)
    other.close()
    assert stored(owner, ["client", "provider"]) == expected(events, ["client", "provider"])


def test_batches_of_the_release_before_are_noticed(owner: connection, worker: Database) -> None:
    keep_dimensions(worker, (KeptDimension("client"),))
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
    drain(worker)
    assert row(owner, "client")["complete_since"] == since, "batches of this release are whole"


def test_days_alone_keep_no_hours_and_hours_may_go_sooner(owner: connection, worker: Database) -> None:
    settings = load(
        RollupWorkerSettings,
        {"DATABASE_URL": "postgresql://x@y/z", "ROLLUP_DIMENSIONS": "actor:day,client:day:90d"},
    )
    keep_dimensions(worker, settings.rollup_dimensions)
    assert row(owner, "actor")["keeps_hours"] is False
    assert row(owner, "client")["hours_kept"] == timedelta(days=90)
    events = mix(200)
    insert(owner, events)
    drain(worker)
    wanted = {key: sums for key, sums in expected(events, ["actor"]).items() if key[2] == 1440}
    assert stored(owner, ["actor"], [1440]) == wanted
    keep_dimensions(worker, (KeptDimension("client", hours_kept=timedelta(days=9)),))
    assert row(owner, "client")["hours_kept"] == timedelta(days=9)


def test_a_read_of_one_cut_opens_one_part_by_its_key(owner: connection, worker: Database) -> None:
    keep_dimensions(worker, ALL)
    insert(owner, mix(2_000))
    drain(worker)
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
