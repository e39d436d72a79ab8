"""PgBouncer pools transactions before PostgreSQL: limits hold, sessions are shared, nothing is left."""

import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.stack import LocalStack
from deploy.local.traffic import Router
from rollup_worker.rollups import Rollups
from shared.errors import DatabaseBusy, DatabaseUnavailable
from shared.metrics import RollupMetrics
from shared.migrate import migrate
from shared.postgres import Database
from tests.support import pooler
from tests.support.places import TestDatabase, new_name
from tests.support.seed import insert_batch


@pytest.fixture(scope="module")
def port(stack: LocalStack) -> Iterator[int]:
    """A pooler with one session for each login and database, so that whoever asks next has the same."""
    server = pooler.start(stack, pool_size=1, folder=f"pgbouncer-{os.getpid()}")
    yield int(server.settings["PORT"])
    server.stop()


def through(url: str, port: int) -> str:
    """Return a URL with the pooler's port."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()


def open_database(url: str, port: int, name: str = "test") -> Database:
    return Database(
        through(url, port), application_name=name, statement_timeout_seconds=1, lock_timeout_seconds=0.5
    )


def one(database: Database, statement: str) -> object:
    with database.query() as cur:
        cur.execute(statement)
        [(value,)] = cur.fetchall()
    return value


def test_a_session_is_shared_and_each_transaction_has_its_own_limits(
    database: TestDatabase, port: int
) -> None:
    first, second = (open_database(database.owner_url, port) for _ in range(2))
    slow = Database(through(database.owner_url, port), application_name="slow", statement_timeout_seconds=5)
    assert one(first, "SELECT pg_backend_pid()") == one(second, "SELECT pg_backend_pid()")
    for limited in (first, second):
        for way in (limited.query, limited.transaction):
            with pytest.raises(DatabaseBusy, match="statement timeout"), way() as cur:
                cur.execute("SELECT pg_sleep(3)")
    with slow.query() as cur:
        cur.execute("SELECT pg_sleep(1.5), current_setting('timezone')")
        assert cur.fetchall() == [("", "UTC")]
    for each in (first, second, slow):
        each.close()


def test_waits_for_locks_and_idle_transactions_end(
    database: TestDatabase, port: int, owner: connection
) -> None:
    with owner.cursor() as cur:
        cur.execute("CREATE TABLE kept (n int)")
    db = open_database(database.owner_url, port)
    with db.transaction() as cur:
        cur.execute("SELECT current_setting('idle_in_transaction_session_timeout')")
        assert cur.fetchall() == [("1min",)]
    owner.autocommit = False
    with owner.cursor() as cur:
        cur.execute("LOCK TABLE kept")
    with pytest.raises(DatabaseBusy, match="lock timeout"), db.transaction() as cur:
        cur.execute("INSERT INTO kept VALUES (1)")
    owner.rollback()
    db.close()


def test_a_wait_for_a_session_that_others_hold_ends_at_the_limit(database: TestDatabase, port: int) -> None:
    holder, waiter = (open_database(database.owner_url, port) for _ in range(2))
    with holder.transaction() as cur:
        cur.execute("SELECT 1")
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable), waiter.query(time_limit_seconds=1) as waiting:
            waiting.execute("SELECT 1")
        assert time.monotonic() - began < 8
    assert one(waiter, "SELECT 1") == 1
    holder.close()
    waiter.close()


def test_who_cannot_hear_notifications_waits_and_listens_nowhere(
    database: TestDatabase, port: int, owner: connection
) -> None:
    listener = open_database(database.owner_url, port, "listener")
    assert listener.wait_notified("LISTEN analytics_batches;", 0.2)
    began = time.monotonic()
    threading.Timer(0.1, lambda: owner.cursor().execute("NOTIFY analytics_batches")).start()
    assert not listener.wait_notified("LISTEN analytics_batches;", 0.5)
    assert time.monotonic() - began >= 0.5
    assert one(listener, "SELECT count(*) FROM pg_listening_channels()") == 0
    listener.close()


def test_two_rollup_workers_share_a_session_and_leave_no_table_in_it(
    database: TestDatabase, port: int, owner: connection
) -> None:
    now = datetime.now(UTC)
    router = Router(seed=1, start=now - timedelta(hours=3), end=now)
    workers = [open_database(database.rollup_worker_url, port) for _ in range(2)]
    rollups = [Rollups(each, RollupMetrics(CollectorRegistry())) for each in workers]
    for adding in rollups:
        insert_batch(owner, router.events(20))
        assert adding.add_waiting() == 1
    assert one(workers[0], "SELECT sum(invocations) FROM analytics.hourly_rollups") == 40
    assert one(workers[0], "SELECT count(*) FROM pg_class WHERE relpersistence = 't'") == 0
    for each in workers:
        each.close()


def test_migrations_pass_it(stack: LocalStack, port: int) -> None:
    name = new_name("_")
    db = open_database(stack.create_database(name), port)
    migrate(db)
    assert migrate(db) == []
    db.close()
    stack.drop_database(name)
