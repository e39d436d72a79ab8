"""The border to PostgreSQL: limits on every wait, our own errors, connections made again."""

import threading
import time
from contextlib import suppress

import psycopg2
import pytest

from shared.errors import AnalyticsError, DatabaseBusy, DatabaseRejected, DatabaseUnavailable
from shared.migrate import check_schema
from shared.postgres import Database, Pool
from tests.support.places import TestDatabase
from tests.support.tcp_proxy import TcpProxy

LOST_AS_CITUS_SAYS_IT = (
    "DO $$ BEGIN RAISE 'postmaster was shut down, exiting' USING ERRCODE = 'internal_error'; END $$"
)


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
        (LOST_AS_CITUS_SAYS_IT, DatabaseUnavailable),
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


def session(database: Database) -> int:
    """Return the process id of the server's session."""
    with database.query() as cur:
        cur.execute("SELECT pg_backend_pid()")
        row = cur.fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("way", ["transaction", "query"])
def test_a_server_that_becomes_read_only_is_left_and_what_it_answered_is_not_used(
    database: TestDatabase, way: str
) -> None:
    db = open_database(database.owner_url)
    before = session(db)
    # As the server tells after the reload of a changed configuration.
    with pytest.raises(DatabaseUnavailable, match="read-only"), getattr(db, way)() as cur:
        cur.execute("SET default_transaction_read_only = on")
    if way == "query":  # the roll-back of a transaction takes the setting back
        assert session(db) != before
    db.close()


def test_a_write_that_is_refused_as_on_a_standby_costs_the_connection(database: TestDatabase) -> None:
    db = open_database(database.owner_url)
    before = session(db)
    with pytest.raises(DatabaseUnavailable, match="read-only"), db.transaction(read_only=True) as cur:
        cur.execute("CREATE TABLE nope (n int)")
    assert session(db) != before
    db.close()


def test_only_a_host_that_takes_writes_is_taken(database: TestDatabase) -> None:
    name = database.owner_url.rpartition("/")[2]
    db = open_database(database.owner_url.replace("@", "@127.0.0.1:1,"))
    assert answer(db) == 1
    with db.transaction() as cur:
        cur.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    db.close()
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        answer(db)


def test_a_commit_with_a_warning_is_none(database: TestDatabase) -> None:
    """So the server says that nobody waited for the synchronous standby; tests/drills has the real one."""
    owner = psycopg2.connect(database.owner_url)
    owner.autocommit = True
    owner.cursor().execute(
        "CREATE TABLE kept (n int); CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE WARNING 'canceling wait'; RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON kept DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION warn()"
    )
    owner.close()
    db = open_database(database.owner_url)
    with pytest.raises(DatabaseUnavailable, match="canceling wait"), db.transaction() as cur:
        cur.execute("INSERT INTO kept VALUES (1)")
    assert answer(db) == 1
    db.close()


def test_a_transaction_whose_error_was_hidden_is_not_taken_for_committed(database: TestDatabase) -> None:
    db = open_database(database.owner_url)
    with pytest.raises(AnalyticsError, match="had failed"), db.transaction() as cur, suppress(psycopg2.Error):
        cur.execute("SELECT 1 / 0")
    assert answer(db) == 1
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
