"""Migrations: safe twice, at once, killed, and beside a fleet that works."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection

import shared.migrate
from deploy.local.api import wait_until
from deploy.local.stack import LocalStack
from deploy.local.traffic import Router
from shared.errors import AnalyticsError, DatabaseBusy, DatabaseUnavailable, SchemaOutdated
from shared.migrate import Migration, check_schema, migrate, migrations
from shared.postgres import Database
from tests.support.citus_cluster import CitusStack
from tests.support.places import TestDatabase, new_name
from tests.support.seed import connect, insert_batch

ROOT = Path(__file__).resolve().parents[2]
ALL = [migration.version for migration in migrations()]
NOW = datetime.now(UTC)


@pytest.fixture
def empty(stack: LocalStack) -> Iterator[str]:
    """The URL of a database without a schema."""
    name = new_name("_")
    url = stack.create_database(name)
    yield url
    stack.drop_database(name)


def applied_by(url: str) -> list[int]:
    """Migrate as the command does; return the versions that were missing."""
    database = Database(url, application_name="migrate", lock_timeout_seconds=1)
    try:
        return [migration.version for migration in migrate(database)]
    finally:
        database.close()


def command(url: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start `python -m shared.migrate`."""
    return subprocess.Popen(
        [sys.executable, "-m", "shared.migrate", *arguments],
        cwd=ROOT,
        env={"DATABASE_URL": url, "LOG_FORMAT": "json"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def schema_of(url: str) -> set[tuple[str, ...]]:
    """Return every table, column, index, constraint, function and right of the schema."""
    opened = connect(url)
    with opened.cursor() as cur:
        cur.execute(
            "SELECT 'table', relname, relkind::text, coalesce(array_to_string(relacl, ' '), '')"
            " FROM pg_class WHERE relnamespace = 'analytics'::regnamespace"
            " UNION ALL SELECT 'column', table_name, column_name, data_type"
            " FROM information_schema.columns WHERE table_schema = 'analytics'"
            " UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
            " FROM pg_constraint WHERE connamespace = 'analytics'::regnamespace AND coninhcount = 0"
            " UNION ALL SELECT 'function', proname, prosrc, coalesce(array_to_string(proacl, ' '), '')"
            " FROM pg_proc WHERE pronamespace = 'analytics'::regnamespace"
        )
        found = set(cur.fetchall())
    opened.close()
    return found


def test_an_empty_database_gets_every_migration_once(empty: str, database: TestDatabase) -> None:
    assert applied_by(empty) == ALL
    assert applied_by(empty) == []
    assert schema_of(empty) == schema_of(database.owner_url)


def test_runs_at_the_same_time_apply_each_migration_once_and_all_succeed(
    empty: str, database: TestDatabase
) -> None:
    runs = [command(empty) for _ in range(3)]
    output = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], output
    assert sum(text.count('"migration applied"') for text in output) == len(ALL)
    assert all("schema is up to date" in text for text in output)
    assert schema_of(empty) == schema_of(database.owner_url)


def test_a_migration_killed_in_the_middle_leaves_nothing_of_itself_and_the_next_run_finishes(
    empty: str, database: TestDatabase
) -> None:
    admin = connect(empty)
    with admin.cursor() as cur:
        # The view is the last thing its migration makes: stop there, everything before it done.
        # (TimescaleDB's own views come earlier, before that migration's first table.)
        cur.execute(
            "CREATE FUNCTION public.linger() RETURNS event_trigger LANGUAGE plpgsql AS"
            " 'BEGIN IF to_regclass(''analytics.latency_bins'') IS NOT NULL"
            " THEN PERFORM pg_sleep(60); END IF; END'"
        )
        cur.execute(
            "CREATE EVENT TRIGGER linger ON ddl_command_end WHEN TAG IN ('CREATE VIEW')"
            " EXECUTE FUNCTION public.linger()"
        )
        run = command(empty)

        def killed() -> bool:
            cur.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event = 'PgSleep'"
            )
            return cur.fetchone() is not None

        wait_until(killed, seconds=30, what="a migration in its middle", every_seconds=0.05)
        output, _ = run.communicate(timeout=30)
        assert run.returncode == 1, output
        assert "nothing of it was kept" in output
        cur.execute(
            "SELECT max(version), to_regclass('analytics.latency_bins') FROM analytics.schema_migrations"
        )
        assert cur.fetchone() == (2, None)
        cur.execute("DROP EVENT TRIGGER linger")
    admin.close()
    assert applied_by(empty) == ALL[2:]
    assert schema_of(empty) == schema_of(database.owner_url)


def test_an_applied_migration_that_was_edited_is_refused_by_name(
    database: TestDatabase, owner: connection
) -> None:
    with owner.cursor() as cur:
        cur.execute("UPDATE analytics.schema_migrations SET checksum = 'another' WHERE version = 2")
    with pytest.raises(AnalyticsError, match="0002 event_storage: was edited after it was applied") as caught:
        applied_by(database.owner_url)
    assert not isinstance(caught.value, DatabaseUnavailable)
    run = command(database.owner_url)
    output, _ = run.communicate(timeout=30)
    assert (run.returncode, "0002 event_storage" in output) == (1, True)


def tables_of(url: str) -> int:
    """Return how many tables the schema has."""
    with closing(connect(url)) as opened, opened.cursor() as cur:
        cur.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'analytics'")
        [(count,)] = cur.fetchall()
    return int(count)


def test_a_word_that_is_no_command_migrates_nothing(empty: str) -> None:
    run = command(empty, "distribut")
    output, _ = run.communicate(timeout=30)
    assert (run.returncode, "invalid choice: 'distribut'" in output) == (2, True), output
    assert tables_of(empty) == 0


def test_without_a_cluster_distribute_says_so_and_migrates_nothing(stack: LocalStack, empty: str) -> None:
    nodes = isinstance(stack, CitusStack)
    if nodes:  # a coordinator to which nobody has named a node
        with closing(connect(empty)) as opened, opened.cursor() as cur:
            cur.execute("SELECT citus_remove_node(nodename, nodeport) FROM pg_dist_node WHERE groupid > 0")
    run = command(empty, "distribute")
    output, _ = run.communicate(timeout=30)
    assert run.returncode == 1, output
    assert ("citus_add_node" if nodes else "extension citus is missing") in output
    assert tables_of(empty) == 0


def add_migration(monkeypatch: pytest.MonkeyPatch, text: str) -> int:
    """Make this release have one migration more; return its version."""
    more = Migration(ALL[-1] + 1, "one_more", text)
    monkeypatch.setattr(shared.migrate, "migrations", lambda: [*migrations(), more])
    return more.version


def test_beside_running_transactions_a_migration_goes_through_or_gives_up_whole(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = psycopg2.connect(database.owner_url)
    insert_batch(
        busy, Router(seed=1, start=NOW - timedelta(hours=1), end=NOW).events(50)
    )  # not committed yet
    assert applied_by(database.owner_url) == []
    version = add_migration(
        monkeypatch,
        "CREATE TABLE analytics.made_first (n int); ALTER TABLE analytics.usage_events ADD COLUMN more text;",
    )
    with pytest.raises(DatabaseBusy):
        applied_by(database.owner_url)
    with busy.cursor() as cur:
        cur.execute("SELECT to_regclass('analytics.made_first')")
        assert cur.fetchone() == (None,)
    busy.commit()
    assert applied_by(database.owner_url) == [version]
    with busy.cursor() as cur:
        cur.execute("SELECT count(*), count(more) FROM analytics.usage_events")
        assert cur.fetchone() == (50, 0)
    busy.close()


def test_the_fleet_s_transactions_go_on_while_a_migration_runs(
    database: TestDatabase, owner: connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add_migration(
        monkeypatch, "ALTER TABLE analytics.audit_log ADD COLUMN more text; SELECT pg_sleep(2);"
    )
    applied: list[int] = []
    run = threading.Thread(target=lambda: applied.extend(applied_by(database.owner_url)))
    run.start()
    batches = 0
    while run.is_alive():
        insert_batch(owner, Router(seed=batches, start=NOW - timedelta(hours=1), end=NOW).events(5))
        batches += 1
    run.join()
    assert applied == [version]
    assert batches > 3


def test_a_process_is_told_that_the_schema_lacks_what_it_needs(
    database: TestDatabase, owner: connection, empty: str
) -> None:
    def check(url: str) -> None:
        opened = Database(url, application_name="any process")
        try:
            with opened.query() as cur:
                check_schema(cur)
        finally:
            opened.close()

    check(database.rollup_worker_url)
    with pytest.raises(SchemaOutdated, match=r"run python -m shared\.migrate"):
        check(empty)
    with owner.cursor() as cur:  # a newer schema serves an older release
        cur.execute(
            "INSERT INTO analytics.schema_migrations (version, name, checksum) VALUES (%s, 'newer', 'x')",
            (ALL[-1] + 1,),
        )
    check(database.rollup_worker_url)
    with owner.cursor() as cur:
        cur.execute("DELETE FROM analytics.schema_migrations WHERE version >= %s", (ALL[-1],))
    with pytest.raises(SchemaOutdated, match=f"is at migration {ALL[-2]}, this release needs {ALL[-1]}"):
        check(database.rollup_worker_url)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["0001_a.sql", "0003_b.sql"], "gap"),
        (["0001_a.sql", "0001_b.sql"], "stand twice"),
        (["1_a.sql"], "not named NNNN_name"),
    ],
)
def test_migrations_whose_numbers_do_not_follow_each_other_are_refused(
    tmp_path: Path, names: list[str], complaint: str
) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(ValueError, match=complaint):
        migrations(tmp_path)
