"""Days whose raw events were dropped: no proof calls them wrong, and no repair takes their numbers away."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.checkout import ROOT
from deploy.local.stack import LocalStack
from deploy.local.traffic import Event, Router
from rollup_worker import upkeep as upkeep_module
from rollup_worker.commands import read_arguments
from rollup_worker.rollups import Rollups
from rollup_worker.upkeep import Upkeep
from rollup_worker.verify import Window, rebuild
from shared.buckets import bucket_start
from shared.errors import AnalyticsError, DatabaseBusy
from shared.metrics import RollupMetrics
from shared.migrate import migrations
from shared.postgres import Database
from shared.process import Stop
from shared.settings import RollupWorkerSettings, load
from tests.support.places import TestDatabase
from tests.support.seed import connect, insert_batch, rows

NOW = datetime.now(UTC)
TODAY = bucket_start(NOW, "day")
DAY = timedelta(days=1)
OLD = TODAY - 30 * DAY
YOUNG = TODAY - 2 * DAY

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(database: TestDatabase) -> Command:
    """Runs `python -m rollup_worker ...` in a process of its own, with default settings."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rollup_worker", *arguments],
            cwd=ROOT, env={"DATABASE_URL": database.rollup_worker_url}, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip

    return run


@pytest.fixture
def worker_database(database: TestDatabase) -> Iterator[Database]:
    opened = Database(database.rollup_worker_url, application_name="days under test")
    yield opened
    opened.close()


def events_of(day: datetime, number: int = 100, seed: int = 1) -> list[Event]:
    return Router(seed=seed, start=day, end=day + DAY, error_share=0.5).events(number)


def store(owner: connection, database: TestDatabase, events: list[Event]) -> None:
    """Store events and let the rollups show them."""
    insert_batch(owner, events)
    own = Database(database.rollup_worker_url, application_name="rollups")
    while Rollups(own, RollupMetrics(CollectorRegistry())).add_waiting():
        pass
    own.close()


_SHOWN_BEFORE = """
    INSERT INTO analytics.{table} AS known
    SELECT org_id, date_trunc('{unit}', occurred_at, 'UTC'), model_id, count(*), 0, 0, 0, 0,
           sum(input_tokens), sum(output_tokens), sum(cost_estimate_cents),
           array_agg(analytics.latency_bin(latency_ms)), array_agg(1::bigint)
    FROM analytics.usage_events WHERE batch_id = %s GROUP BY 1, 2, 3
    ON CONFLICT (org_id, bucket_start, model_id)
    DO UPDATE SET invocations = known.invocations + excluded.invocations
"""


def store_before(owner: connection, events: list[Event]) -> None:
    """Store events and have them shown, on the schema of the release before."""
    batch_id = insert_batch(owner, events)
    with owner.cursor() as cur:
        for table, unit in (("hourly_rollups", "hour"), ("daily_rollups", "day")):
            cur.execute(_SHOWN_BEFORE.format(table=table, unit=unit), (batch_id,))
        cur.execute(
            "UPDATE analytics.ingestion_batches SET rolled_up_at = now() WHERE batch_id = %s", (batch_id,)
        )


def upkeep(database: TestDatabase, **environ: str) -> None:
    own = Database(database.rollup_worker_url, application_name="upkeep under test")
    settings = load(RollupWorkerSettings, {"DATABASE_URL": database.rollup_worker_url} | environ)
    try:
        Upkeep(own, settings).run(Stop())
    finally:
        own.close()


def numbers(owner: connection) -> list[list[tuple[Any, ...]]]:
    """Everything that the rollups say."""
    return [
        rows(owner, f"SELECT * FROM analytics.{table} AS t ORDER BY t::text")
        for table in ("hourly_rollups", "daily_rollups", "hourly_error_codes", "daily_error_codes")
    ]


def invocations(owner: connection, day: datetime) -> int:
    [(found,)] = rows(
        owner, "SELECT sum(invocations) FROM analytics.daily_rollups WHERE bucket_start = %s", day
    )
    return int(found)


def span(day: datetime, last: datetime | None = None) -> list[str]:
    return ["--from", f"{day:%Y-%m-%d}", "--to", f"{last or day:%Y-%m-%d}"]


def give_partition(owner: connection, day: datetime) -> None:
    rows(owner, "SELECT analytics.create_event_partitions(%s, %s)", day.date(), day.date())


@pytest.mark.parametrize("partition", [True, False], ids=["day with a partition", "day without"])
def test_rebuild_refuses_a_day_whose_events_went_and_changes_nothing(
    owner: connection, database: TestDatabase, command: Command, partition: bool
) -> None:
    if partition:
        give_partition(owner, OLD)
    store(owner, database, events_of(OLD))
    store(owner, database, events_of(YOUNG))
    upkeep(database, EVENT_RETENTION="10d")
    before = numbers(owner)
    assert invocations(owner, OLD) == 100
    # Alone, and in a window with days that could be made again.
    for window in (span(OLD), span(OLD - DAY, YOUNG)):
        refused = command("rebuild", *window)
        assert refused.returncode == 1
        assert f"{OLD:%Y-%m-%d}" in refused.stderr
        assert f"{YOUNG:%Y-%m-%d}" not in refused.stderr
        assert "Traceback" not in refused.stderr
        assert numbers(owner) == before
    assert command("rebuild", *span(YOUNG)).returncode == 0
    assert command("verify", *span(YOUNG)).returncode == 0
    assert invocations(owner, YOUNG) == 100


def test_verify_calls_a_dropped_day_not_verifiable_and_no_difference(
    owner: connection, database: TestDatabase, command: Command
) -> None:
    store(owner, database, events_of(OLD))
    store(owner, database, events_of(YOUNG))
    upkeep(database, EVENT_RETENTION="10d")
    proof = command("verify", *span(OLD, YOUNG))
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert f"{OLD:%Y-%m-%d}  not verifiable: raw events of this day were dropped" in proof.stdout
    assert "DIFFERS" not in proof.stdout
    # What can still be proven is: the days are the sums of their hours, and young days as ever.
    rows(owner, "UPDATE analytics.daily_rollups SET input_tokens = input_tokens + 1 RETURNING 1")
    proof = command("verify", *span(OLD, YOUNG))
    assert proof.returncode == 1
    assert f"DIFFERS  day {OLD:%Y-%m-%d}" in proof.stdout
    assert f"DIFFERS  day {YOUNG:%Y-%m-%d}" in proof.stdout


def test_late_events_of_a_dropped_day_are_added_to_what_it_had(
    owner: connection, database: TestDatabase, command: Command
) -> None:
    give_partition(owner, OLD)
    store(owner, database, events_of(OLD))
    upkeep(database, EVENT_RETENTION="10d")
    store(owner, database, events_of(OLD, 7, seed=2))
    for _ in range(2):
        assert invocations(owner, OLD) == 107
        proof = command("verify", *span(OLD))
        assert (proof.returncode, "not verifiable" in proof.stdout) == (0, True)
        before = numbers(owner)
        assert command("rebuild", *span(OLD)).returncode == 1
        assert numbers(owner) == before
        upkeep(database, EVENT_RETENTION="10d")  # takes the late events too
    assert rows(owner, "SELECT count(*) FROM analytics.usage_events") == [(0,)]


def test_a_day_half_dropped_is_not_rebuilt(
    owner: connection, database: TestDatabase, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows(owner, "SELECT to_regclass('analytics.usage_events_default') IS NULL") == [(True,)]:
        pytest.skip("TimescaleDB drops whole chunks")
    store(owner, database, events_of(OLD))
    worker = connect(database.rollup_worker_url)
    assert rows(worker, "SELECT * FROM analytics.drop_expired_events('10d', now(), 30)") == [(0, 30)]
    worker.close()
    assert command("rebuild", *span(OLD)).returncode == 1
    assert invocations(owner, OLD) == 100
    monkeypatch.setattr(upkeep_module, "_MAX_ROWS", 30)
    upkeep(database, EVENT_RETENTION="10d")
    assert rows(owner, "SELECT count(*) FROM analytics.usage_events") == [(0,)]


def test_days_dropped_before_drops_were_recorded_are_known_by_what_they_left(
    stack: LocalStack, command: Command
) -> None:
    """The schema and the retention of the release before, with days of every kind, and then the upgrade."""
    url = stack.create_database("dropped_before")
    owner = connect(url)
    with owner.cursor() as cur:
        cur.execute(
            "CREATE SCHEMA analytics; CREATE TABLE analytics.schema_migrations (version integer PRIMARY KEY,"
            " name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        for migration in migrations()[:5]:
            cur.execute(migration.sql)
            cur.execute(
                "INSERT INTO analytics.schema_migrations VALUES (%s, %s, %s)",
                (migration.version, migration.name, migration.checksum),
            )
    late, kept_late, without = OLD - 5 * DAY, TODAY - 8 * DAY, TODAY - 5 * DAY
    give_partition(owner, OLD)
    for day in (OLD, late, kept_late, YOUNG):
        store_before(owner, events_of(day))
    rows(owner, "SELECT analytics.keep_events('10d', now())")
    store_before(owner, events_of(late, 7, seed=2))
    insert_batch(owner, events_of(without))  # waits for its rollup
    done = subprocess.run(
        [sys.executable, "-m", "shared.migrate"], cwd=ROOT, env={"DATABASE_URL": url}, check=False
    )
    assert done.returncode == 0
    found = rows(owner, "SELECT day, what FROM analytics.dropped_days ORDER BY day")
    assert found == [(late.date(), "events"), (OLD.date(), "events")]
    # The release before goes on dropping for a while: that is recorded too.
    rows(owner, "SELECT analytics.keep_events('7d', now())")
    assert (kept_late.date(), "events") in rows(owner, "SELECT day, what FROM analytics.dropped_days")
    owner.close()
    stack.drop_database("dropped_before")


def test_verify_calls_a_day_whose_rollups_went_not_verifiable(
    owner: connection, database: TestDatabase, command: Command
) -> None:
    day = TODAY - 40 * DAY
    store(owner, database, events_of(day))
    upkeep(database, ROLLUP_RETENTION="35d")
    proof = command("verify", *span(day))
    assert proof.returncode == 0
    assert "not verifiable: rollups of this day were dropped" in proof.stdout


def test_events_that_went_without_a_record_are_a_difference_and_still_not_rebuilt(
    owner: connection, database: TestDatabase, command: Command
) -> None:
    store(owner, database, events_of(YOUNG))
    gone = rows(owner, "SELECT org_id::text FROM analytics.usage_events LIMIT 1")[0][0]
    rows(owner, "DELETE FROM analytics.usage_events WHERE org_id = %s RETURNING 1", gone)
    assert "DIFFERS" in command("verify", *span(YOUNG)).stdout
    before = numbers(owner)
    for arguments in ([], ["--org", gone]):
        refused = command("rebuild", *span(YOUNG), *arguments)
        assert (refused.returncode, f"{YOUNG:%Y-%m-%d}" in refused.stderr) == (1, True)
    assert numbers(owner) == before


def test_a_worker_whose_clock_is_ahead_drops_nothing_early(owner: connection, database: TestDatabase) -> None:
    store(owner, database, events_of(YOUNG))
    worker = connect(database.rollup_worker_url)
    ahead = NOW + 1000 * DAY
    assert rows(worker, "SELECT * FROM analytics.drop_expired_events('10d', %s, 10)", ahead) == [(0, 0)]
    assert rows(worker, "SELECT analytics.keep_events('10d', %s)", ahead) == [(0,)]
    worker.close()
    assert rows(owner, "SELECT count(*) FROM analytics.usage_events") == [(100,)]


def test_a_day_is_not_dropped_while_it_is_proven_or_rebuilt_and_not_rebuilt_once_it_is_being_dropped(
    owner: connection, database: TestDatabase, worker_database: Database
) -> None:
    give_partition(owner, OLD)
    store(owner, database, events_of(OLD))
    with worker_database.transaction() as cur:
        cur.execute("LOCK TABLE analytics.dropped_days IN ACCESS SHARE MODE")
        with pytest.raises(DatabaseBusy):
            upkeep(database, EVENT_RETENTION="10d")
    dropping = connect(database.rollup_worker_url)
    dropping.autocommit = False
    [(partitions, single)] = rows(
        dropping, "SELECT * FROM analytics.drop_expired_events('10d', now(), 10000)"
    )
    assert partitions + single > 0
    refusals: list[AnalyticsError] = []

    def repair() -> None:
        try:
            rebuild(worker_database, Window(OLD, OLD + DAY), lambda _: None)
        except AnalyticsError as error:
            refusals.append(error)

    thread = threading.Thread(target=repair)
    thread.start()
    thread.join(1)
    assert thread.is_alive(), "it did not wait for the drop"
    dropping.commit()
    dropping.close()
    thread.join(20)
    assert [f"{OLD:%Y-%m-%d}" in str(error) for error in refusals] == [True]
    assert invocations(owner, OLD) == 100


def test_a_day_that_is_none_ends_the_command_with_a_sentence(command: Command) -> None:
    refused = command("verify", "--from", "tomorrow")
    assert refused.returncode == 2
    assert "tomorrow" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--from", "0001-01-01"], ["--from", "2026-01-01", "--to", "9999-12-31"], ["--from", "2026-W05-1"],
        ["--from", "20260101"], ["--from", "2026-02-30"], ["--from", "infinity"], ["--from", "tomorrow"],
        ["--from", "2026-02-02", "--to", "2026-02-01"], ["--from", "2026-01-01", "--org", "everybody"],
        ["--from", "2026-01-01", "--org", "{00000000-0000-4000-8000-000000000001}"],
        ["--fr", "2026-01-01"], ["--from", "٢٠٢٦-01-01"], ["--from", ""],
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["verify", "rebuild"])
def test_arguments_that_make_no_sense_are_refused_in_a_sentence(
    capsys: pytest.CaptureFixture[str], name: str, arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        read_arguments([name, *arguments])
    assert refused.value.code == 2
    assert "error: " in capsys.readouterr().err
