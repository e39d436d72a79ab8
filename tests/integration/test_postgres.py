"""The border to PostgreSQL: limits on every wait, our own errors, connections made again."""

import threading
import time

import psycopg2
import pytest

from shared.errors import AnalyticsError, DatabaseBusy, DatabaseRejected, DatabaseUnavailable
from shared.migrate import check_schema
from shared.postgres import Database, Pool
from tests.support.places import TestDatabase
from tests.support.tcp_proxy import TcpProxy


def answer(database: Database) -> int:
    """Ask for the number 1."""
    with database.query() as cur:
        cur.execute("SELECT 1")
        row = cur.fetchone()
    assert row is not None
    return int(row[0])


def open_database(url: str) -> Database:
    return Database(url, application_name="test", statement_timeout_seconds=3, lock_timeout_seconds=1)


def test_a_block_commits_at_its_end_and_rolls_back_when_it_raises(database: TestDatabase) -> None:
    db = open_database(database.owner_url)
    with db.transaction() as cur:
        cur.execute("CREATE TABLE kept (n int)")

    def insert_and_fail() -> None:
        with db.transaction() as cur:
            cur.execute("INSERT INTO kept VALUES (1)")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        insert_and_fail()
    with db.transaction(read_only=True) as cur:
        cur.execute("SELECT count(*) FROM kept")
        assert cur.fetchone() == (0,)
    db.close()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT pg_sleep(10)", DatabaseBusy),
        ("SELECT 'x'::int", DatabaseRejected),
        ("SELECT nothing_like_this", AnalyticsError),
        ("SELECT pg_terminate_backend(pg_backend_pid())", DatabaseUnavailable),
    ],
)
def test_the_driver_s_errors_come_in_our_words_and_the_next_use_works(
    database: TestDatabase, statement: str, error: type[Exception]
) -> None:
    db = open_database(database.owner_url)
    for attempt in (db.transaction, db.query):
        with pytest.raises(error), attempt() as cur:
            cur.execute(statement)
        assert answer(db) == 1
    db.close()


def test_sessions_are_in_utc_and_read_only_ones_cannot_write(database: TestDatabase) -> None:
    db = open_database(database.owner_url)
    with db.query() as cur:
        cur.execute("SHOW timezone")
        assert cur.fetchone() == ("UTC",)
    with pytest.raises(DatabaseUnavailable, match="read-only"), db.transaction(read_only=True) as cur:
        cur.execute("CREATE TABLE nope (n int)")
    db.close()


@pytest.mark.parametrize("way", ["transaction", "query"])
def test_a_server_that_falls_silent_is_given_up_at_the_limit(database: TestDatabase, way: str) -> None:
    with TcpProxy.before(database.owner_url) as proxy:
        db = open_database(proxy.url(database.owner_url))
        assert answer(db) == 1
        proxy.mode = "blackhole"
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable), getattr(db, way)(time_limit_seconds=1) as cur:
            cur.execute("SELECT 1")
        assert time.monotonic() - began < 8
        proxy.mode = "pass"
        assert answer(db) == 1
        db.close()


def test_a_wrong_password_or_a_server_that_is_gone_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable):
        answer(open_database("postgresql://nobody:wrong@127.0.0.1:1/nothing"))


def test_a_pool_lends_no_more_than_it_has_and_says_so_in_time(database: TestDatabase) -> None:
    pool = Pool(lambda: open_database(database.owner_url), 1)
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with pool.lend(wait_seconds=1) as db:
            answer(db)
            taken.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait(10)
    with pytest.raises(DatabaseBusy, match="in use"), pool.lend(wait_seconds=0.1):
        pass
    release.set()
    holder.join()
    with pool.lend(wait_seconds=1) as db:
        assert answer(db) == 1
        db.close()


def test_a_process_s_role_can_check_the_schema_and_an_old_schema_is_named(database: TestDatabase) -> None:
    for url in database.process_urls.values():
        db = open_database(url)
        with db.query() as cur:
            check_schema(cur)
        db.close()
    owner = psycopg2.connect(database.owner_url)
    owner.autocommit = True
    owner.cursor().execute("DELETE FROM analytics.schema_migrations WHERE version > 2")
    owner.close()
    db = open_database(database.gateway_url)
    with pytest.raises(DatabaseUnavailable, match=r"migration 2.*shared\.migrate"), db.query() as cur:
        check_schema(cur)
    db.close()
