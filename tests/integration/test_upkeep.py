"""Upkeep, in the worker's own least rights: partitions ahead, retention, pruning in small steps."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.api import wait_until
from deploy.local.traffic import Event, Router
from rollup_worker import upkeep as upkeep_module
from rollup_worker.rollups import Rollups
from rollup_worker.upkeep import DAYS_AHEAD, Upkeep
from rollup_worker.verify import Window, rebuild
from shared.buckets import bucket_start
from shared.errors import DatabaseBusy
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.process import Stop
from shared.settings import RollupWorkerSettings, load
from tests.support.places import TestDatabase
from tests.support.seed import connect, insert_batch, rows

NOW = datetime.now(UTC)
TODAY = bucket_start(NOW, "day")
DAY = timedelta(days=1)

RunUpkeep = Callable[..., None]


@pytest.fixture
def run_upkeep(database: TestDatabase) -> RunUpkeep:
    """Does the upkeep once as the worker's login at an instant."""

    def run(at: datetime = NOW, stop: Stop | None = None, **environ: str) -> None:
        own = Database(database.rollup_worker_url, application_name="upkeep under test")
        settings = load(RollupWorkerSettings, {"DATABASE_URL": database.rollup_worker_url} | environ)
        try:
            Upkeep(own, settings, clock=lambda: at).run(stop or Stop())
        finally:
            own.close()

    return run


def roll_up(database: TestDatabase) -> None:
    own = Database(database.rollup_worker_url, application_name="rollups")
    rollups = Rollups(own, RollupMetrics(CollectorRegistry()))
    while rollups.add_waiting():
        pass
    own.close()


def count(owner: connection, table: str) -> int:
    [(found,)] = rows(owner, f"SELECT count(*) FROM analytics.{table}")
    return int(found)


def on_timescaledb(owner: connection) -> bool:
    return rows(owner, "SELECT to_regclass('analytics.usage_events_default') IS NULL") == [(True,)]


@pytest.fixture
def native_partitions(owner: connection) -> None:
    if on_timescaledb(owner):
        pytest.skip("TimescaleDB makes its chunks itself")


def days_with_a_partition(owner: connection) -> set[date]:
    if on_timescaledb(owner):
        return {day for (day,) in rows(owner, "SELECT range_start::date FROM timescaledb_information.chunks")}
    names = rows(
        owner,
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'analytics.usage_events'::regclass",
    )
    texts = [str(name).rpartition("_")[2] for (name,) in names]
    return {
        datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date() for text in texts if text != "default"
    }


def events_of_day(day: datetime, number: int = 50, seed: int = 1) -> list[Event]:
    return Router(seed=seed, start=day, end=day + DAY, error_share=0.5).events(number)


def add_silent_models(owner: connection, number: int) -> None:
    """Add models whose newest event is older than any rollup that is kept."""
    rows(
        owner,
        "INSERT INTO analytics.model_freshness (org_id, model_id, last_event_at, last_rollup_at)"
        " SELECT gen_random_uuid(), 'silent', %s, now() FROM generate_series(1, %s) RETURNING 0",
        NOW - 500 * DAY,
        number,
    )


def silent_models(owner: connection) -> int:
    [(found,)] = rows(owner, "SELECT count(*) FROM analytics.model_freshness WHERE model_id = 'silent'")
    return int(found)


def test_every_day_from_yesterday_to_a_week_ahead_has_a_partition(
    native_partitions: None, owner: connection, run_upkeep: RunUpkeep
) -> None:
    later = NOW + 30 * DAY
    run_upkeep(later)
    wanted = {(later + number * DAY).date() for number in range(-1, DAYS_AHEAD + 1)}
    assert wanted <= days_with_a_partition(owner)
    before = days_with_a_partition(owner)
    run_upkeep(later)
    assert days_with_a_partition(owner) == before


def test_an_event_of_a_day_without_a_partition_is_stored_found_and_rolled_up(
    native_partitions: None, owner: connection, database: TestDatabase, run_upkeep: RunUpkeep
) -> None:
    day = TODAY - 100 * DAY
    insert_batch(owner, events_of_day(day))
    assert count(owner, "usage_events_default") == 50
    roll_up(database)
    [(found,)] = rows(
        owner,
        "SELECT sum(invocations) FROM analytics.daily_rollups WHERE bucket_start = %s",
        day,
    )
    assert found == 50
    # Nor does it keep the days around it from getting theirs when the upkeep comes by.
    run_upkeep(day)
    made = days_with_a_partition(owner)
    assert (day.date() in made, (day - DAY).date() in made, (day + DAY).date() in made) == (False, True, True)
    assert count(owner, "usage_events") == 50


def test_retention_drops_whole_days_and_nothing_younger(
    owner: connection, database: TestDatabase, run_upkeep: RunUpkeep
) -> None:
    # With 10 days' retention the cutoff is the start of the day 10 days before.
    old_default, kept_default = TODAY - 12 * DAY, TODAY - 10 * DAY
    insert_batch(owner, events_of_day(old_default))
    insert_batch(owner, events_of_day(kept_default))
    old, kept = TODAY - 30 * DAY, TODAY - DAY
    rows(owner, "SELECT analytics.create_event_partitions(%s, %s)", old.date(), old.date())
    insert_batch(owner, events_of_day(old))
    insert_batch(owner, events_of_day(kept))
    roll_up(database)
    run_upkeep(EVENT_RETENTION="10d")
    left = rows(
        owner, "SELECT date_trunc('day', occurred_at, 'UTC'), count(*) FROM analytics.usage_events GROUP BY 1"
    )
    assert dict(left) == {kept_default: 50, kept: 50}
    assert old.date() not in days_with_a_partition(owner)
    # Raw events go, what they added up to stays.
    assert rows(owner, "SELECT sum(invocations) FROM analytics.daily_rollups") == [(200,)]


def test_retention_waits_for_a_batch_that_is_not_rolled_up(
    owner: connection, database: TestDatabase, run_upkeep: RunUpkeep
) -> None:
    old = TODAY - 30 * DAY
    rows(owner, "SELECT analytics.create_event_partitions(%s, %s)", old.date(), old.date())
    insert_batch(owner, [*events_of_day(old), *events_of_day(TODAY - DAY, seed=2)])
    run_upkeep(EVENT_RETENTION="10d")
    assert count(owner, "usage_events") == 100
    roll_up(database)
    run_upkeep(EVENT_RETENTION="10d")
    assert count(owner, "usage_events") == 50
    assert rows(owner, "SELECT sum(invocations) FROM analytics.hourly_rollups") == [(100,)]


@pytest.mark.parametrize("partition", [True, False], ids=["day with a partition", "day without"])
def test_a_batch_that_comes_in_while_old_days_are_dropped_is_still_counted(
    owner: connection, database: TestDatabase, run_upkeep: RunUpkeep, partition: bool
) -> None:
    old = TODAY - 30 * DAY
    if partition:
        rows(owner, "SELECT analytics.create_event_partitions(%s, %s)", old.date(), old.date())
    insert_batch(owner, events_of_day(old - DAY))
    roll_up(database)
    # Holds the retention up between its look for pending batches and its work.
    holder = connect(database.owner_url)
    holder.autocommit = False
    rows(holder, "SELECT pg_advisory_xact_lock(hashtext('analytics.create_event_partitions'))")

    def work() -> None:
        own = Database(database.rollup_worker_url, application_name="retention under test")
        with suppress(DatabaseBusy), own.transaction() as cur:
            cur.execute("SELECT analytics.drop_expired_events('10d', %s, 10000)", (NOW,))
        own.close()

    worker = threading.Thread(target=work)
    worker.start()
    waiting = (
        "SELECT FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'retention under test'"
        " AND wait_event = 'advisory'"
    )
    wait_until(
        lambda: bool(rows(owner, waiting)), seconds=10, what="the retention's wait", every_seconds=0.005
    )
    insert_batch(owner, events_of_day(old))
    holder.close()
    worker.join()
    roll_up(database)
    assert rows(owner, "SELECT sum(invocations) FROM analytics.daily_rollups") == [(100,)]


def test_a_pending_batch_of_young_days_does_not_hold_up_retention(
    owner: connection, database: TestDatabase, run_upkeep: RunUpkeep
) -> None:
    insert_batch(owner, events_of_day(TODAY - 30 * DAY))
    roll_up(database)
    insert_batch(owner, events_of_day(TODAY - DAY, seed=2))
    insert_batch(owner, [])
    run_upkeep(EVENT_RETENTION="10d")
    assert count(owner, "usage_events") == 50


def test_batch_records_go_with_their_keys_unless_they_wait_for_their_rollup(
    owner: connection, database: TestDatabase, run_upkeep: RunUpkeep
) -> None:
    insert_batch(owner, events_of_day(TODAY - DAY))
    roll_up(database)
    insert_batch(owner, events_of_day(TODAY - DAY, seed=2))
    run_upkeep(NOW + 34 * DAY)
    assert count(owner, "ingestion_batches") == 2
    run_upkeep(NOW + 36 * DAY)
    assert rows(owner, "SELECT rolled_up_at IS NULL FROM analytics.ingestion_batches") == [(True,)]


def test_rollups_and_error_codes_go_after_their_retention_in_whole_days(
    owner: connection, database: TestDatabase, run_upkeep: RunUpkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "_MAX_ROWS", 7)  # many steps
    for day in (21, 20, 1):
        insert_batch(owner, events_of_day(TODAY - day * DAY, seed=day))
    roll_up(database)
    run_upkeep(ROLLUP_RETENTION="20d")
    for table in ("hourly_rollups", "daily_rollups", "hourly_error_codes", "daily_error_codes"):
        days = rows(owner, f"SELECT DISTINCT date_trunc('day', bucket_start, 'UTC') FROM analytics.{table}")
        assert sorted(days) == [(TODAY - 20 * DAY,), (TODAY - DAY,)], table


def test_since_when_rollups_are_kept_is_noted_and_a_rebuild_goes_back_behind_it(
    owner: connection, database: TestDatabase, run_upkeep: RunUpkeep
) -> None:
    for day in (22, 21, 20):
        insert_batch(owner, events_of_day(TODAY - day * DAY, seed=day))
    roll_up(database)
    run_upkeep(ROLLUP_RETENTION="30d")
    assert kept_since(owner) == {None}
    run_upkeep(ROLLUP_RETENTION="20d")
    assert kept_since(owner) == {TODAY - 20 * DAY}
    own = Database(database.rollup_worker_url, application_name="rebuild")
    for day, since in ((22, 20), (21, 21), (22, 22)):  # a day that is apart from what is kept stays unseen
        rebuild(own, Window(TODAY - day * DAY, TODAY - (day - 1) * DAY), lambda _: None)
        assert kept_since(owner) == {TODAY - since * DAY}
    own.close()


def kept_since(owner: connection) -> set[datetime | None]:
    return {since for (since,) in rows(owner, "SELECT kept_since FROM analytics.rollup_dimensions")}


def test_models_silent_for_longer_than_the_rollups_are_kept_are_forgotten(
    owner: connection, run_upkeep: RunUpkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "_MAX_ROWS", 10)  # many steps
    for name, last in (("silent", NOW - 36 * DAY), ("heard", NOW - 34 * DAY)):
        rows(
            owner,
            "INSERT INTO analytics.model_freshness (org_id, model_id, last_event_at, last_rollup_at)"
            " SELECT gen_random_uuid(), %s, %s, now() FROM generate_series(1, 25) RETURNING 0",
            name,
            last,
        )
    run_upkeep(ROLLUP_RETENTION="35d")
    found = rows(owner, "SELECT model_id, count(*) FROM analytics.model_freshness GROUP BY 1")
    assert found == [("heard", 25)]


def test_two_workers_at_once_do_it_once_and_neither_fails(
    owner: connection, database: TestDatabase, run_upkeep: RunUpkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "_MAX_ROWS", 50)
    add_silent_models(owner, 500)
    for day in range(30, 40):
        rows(owner, "SELECT analytics.create_event_partitions(%s, %s)", *[(TODAY - day * DAY).date()] * 2)
        insert_batch(owner, events_of_day(TODAY - day * DAY, 5, seed=day))
    roll_up(database)
    start = threading.Barrier(2, timeout=30)
    done = []

    def work() -> None:
        start.wait()
        for _ in range(20):  # as the worker's loop does
            with suppress(DatabaseBusy):
                run_upkeep(EVENT_RETENTION="10d")
                done.append(True)
                return

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert done == [True, True], "one of them failed"
    assert count(owner, "usage_events") == 0
    assert all(day > (TODAY - 10 * DAY).date() for day in days_with_a_partition(owner))
    run_upkeep()
    assert silent_models(owner) == 0


def test_upkeep_leaves_what_is_held_by_another_worker_to_it(
    owner: connection, database: TestDatabase, run_upkeep: RunUpkeep
) -> None:
    add_silent_models(owner, 10)
    other = connect(database.owner_url)
    other.autocommit = False
    rows(other, "SELECT pg_advisory_xact_lock(hashtext('analytics.upkeep'))")
    run_upkeep()
    assert silent_models(owner) == 10
    other.close()
    run_upkeep()
    assert silent_models(owner) == 0


def test_a_stop_ends_the_upkeep_between_two_steps(owner: connection, run_upkeep: RunUpkeep) -> None:
    add_silent_models(owner, 10)
    stop = Stop()
    stop.set()
    run_upkeep(stop=stop)
    assert silent_models(owner) == 10


@pytest.mark.alone
def test_dropping_a_day_waits_no_longer_than_a_moment_for_open_transactions_and_is_done_after_them(
    owner: connection, database: TestDatabase, run_upkeep: RunUpkeep
) -> None:
    """Whoever comes while the drop waits for the table waits behind it; so it must give up soon."""
    old = TODAY - 30 * DAY
    rows(owner, "SELECT analytics.create_event_partitions(%s, %s)", old.date(), old.date())
    insert_batch(owner, events_of_day(old))
    roll_up(database)
    add_silent_models(owner, 10)
    reader = connect(database.owner_url)
    reader.autocommit = False
    rows(reader, "SELECT count(*) FROM analytics.usage_events")
    began = time.monotonic()
    with pytest.raises(DatabaseBusy):
        run_upkeep(EVENT_RETENTION="10d")
    assert time.monotonic() - began < 5
    assert silent_models(owner) == 0, "the rest of the upkeep is done"
    reader.close()
    run_upkeep(EVENT_RETENTION="10d")
    assert old.date() not in days_with_a_partition(owner)
