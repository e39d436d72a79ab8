"""Workers are woken by what is committed, and need no wake-up to work."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from psycopg2.extensions import connection

from deploy.local.api import wait_until
from deploy.local.traffic import Router
from tests.support.fleet import Fleet, free_port
from tests.support.places import TestDatabase
from tests.support.seed import connect, insert_batch

NOW = datetime.now(UTC)


@pytest.fixture
def owner(database: TestDatabase) -> Iterator[connection]:
    opened = connect(database.owner_url)
    yield opened
    opened.close()


def insert(owner: connection, seed: int) -> None:
    insert_batch(owner, Router(seed=seed, start=NOW - timedelta(hours=1), end=NOW).events(20))


def pending(owner: connection) -> int:
    with owner.cursor() as cur:
        cur.execute("SELECT count(*) FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL")
        [(count,)] = cur.fetchall()
    return int(count)


def test_a_commit_wakes_the_worker_long_before_its_interval(fleet: Fleet, owner: connection) -> None:
    [worker] = fleet.start_ready("rollup_worker", ROLLUP_INTERVAL="1m")
    wait_until(lambda: _listens(owner, "rollup_worker listener"), seconds=30, what="a worker that listens")
    for seed in range(3):
        insert(owner, seed)
        wait_until(lambda: pending(owner) == 0, seconds=20, what="a rollup without waiting for the interval")
    assert worker.stop(seconds=10) == 0, worker.log_tail()


def test_a_worker_that_cannot_listen_goes_by_its_interval(fleet: Fleet, owner: connection) -> None:
    nowhere = f"postgresql://rollup_worker@127.0.0.1:{free_port()}/nowhere"
    [worker] = fleet.start_ready("rollup_worker", DATABASE_LISTEN_URL=nowhere)
    for seed in range(3):
        insert(owner, seed)
        wait_until(lambda: pending(owner) == 0, seconds=30, what="a rollup by the interval")
    assert worker.ready()
    assert worker.stop() == 0, worker.log_tail()


def test_an_export_worker_listens_at_its_own_url_and_one_that_cannot_goes_by_its_interval(
    fleet: Fleet, owner: connection, database: TestDatabase
) -> None:
    """The other URL is the owner's, so that its connection differs from the worker's own."""
    elsewhere = {"DATABASE_LISTEN_URL": database.owner_url}
    [worker] = fleet.start_ready("export_worker", **elsewhere, EXPORT_WORKER_INTERVAL="1h")
    wait_until(lambda: _listens(owner, "export_worker listener"), seconds=30, what="a worker that listens")
    with owner.cursor() as cur:
        cur.execute(
            "SELECT usename = current_user FROM pg_stat_activity WHERE application_name = %s"
            " AND datname = current_database()",
            ("export_worker listener",),
        )
        assert cur.fetchall() == [(True,)]
    for _ in range(2):
        ask_for_an_export(owner)
        wait_until(lambda: unfinished(owner) == 0, seconds=20, what="a file without waiting for the interval")
    assert worker.stop(seconds=10) == 0, worker.log_tail()
    nowhere = f"postgresql://export_worker@127.0.0.1:{free_port()}/nowhere"
    [worker] = fleet.start_ready("export_worker", DATABASE_LISTEN_URL=nowhere, EXPORT_WORKER_INTERVAL="1s")
    ask_for_an_export(owner)
    wait_until(lambda: unfinished(owner) == 0, seconds=30, what="a file by the interval")
    assert worker.ready()
    assert worker.stop() == 0, worker.log_tail()


def ask_for_an_export(owner: connection) -> None:
    with owner.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.export_jobs (org_id, granularity, window_start, window_end, requested_by)"
            " VALUES (gen_random_uuid(), 'daily', '2026-03-01Z', '2026-03-02Z', 'tester')"
        )


def unfinished(owner: connection) -> int:
    with owner.cursor() as cur:
        cur.execute("SELECT count(*) FROM analytics.export_jobs WHERE status <> 'succeeded'")
        [(count,)] = cur.fetchall()
    return int(count)


def _listens(owner: connection, name: str) -> bool:
    with owner.cursor() as cur:
        cur.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = %s"
            " AND query LIKE '%%LISTEN%%' AND datname = current_database())",
            (name,),
        )
        return cur.fetchall() == [(True,)]
