"""Merging the rows of a group in the hours of a dimension: sums stay, whoever comes between."""

import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import Event, org
from rollup_worker import merge
from rollup_worker.days import Days
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.merge import Merge
from rollup_worker.rollups import Rollups
from rollup_worker.verify import Window, verify
from shared.buckets import bucket_start
from shared.latency_histogram import bin_of
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.process import Stop
from shared.settings import KeptDimension
from tests.support.cuts import Mix, expected, stored
from tests.support.places import TestDatabase
from tests.support.seed import connect, insert_batch

HOUR = bucket_start(datetime.now(UTC), "hour")
CLIENT = (KeptDimension("client"),)
TABLE = "rollups_client_hours"


def mix(count: int, seed: int) -> list[Event]:
    """Events of the first half of this hour, of few groups."""
    return Mix(seed, start=HOUR, end=HOUR + timedelta(minutes=29)).events(count)


def add(owner: connection, worker: Database, events: list[Event]) -> None:
    """Roll a batch up by itself, so that its groups have rows of their own."""
    insert_batch(owner, events)
    Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting()


def rows_and_groups(owner: connection) -> tuple[int, int]:
    with owner.cursor() as cur:
        cur.execute(f"SELECT count(*), count(DISTINCT (org_id, model_id, value)) FROM analytics.{TABLE}")
        [(rows, groups)] = cur.fetchall()
    return rows, groups


def agrees(worker: Database) -> bool:
    day = bucket_start(HOUR, "day")
    return verify(worker, Window(day, day + timedelta(days=1)), lambda _: None) == 0


def test_many_rows_of_a_group_become_one_with_the_same_sums(
    owner: connection, worker: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MIN_ROWS", 20)
    keep_dimensions(worker, CLIENT)
    events: list[Event] = []
    for seed in range(6):
        events += mix(200, seed)
        add(owner, worker, events[-200:])
    before = stored(owner, ["client"])
    rows, groups = rows_and_groups(owner)
    assert rows > groups
    Merge(worker).merge_many(TABLE, HOUR, Stop())
    assert rows_and_groups(owner) == (groups, groups)
    assert stored(owner, ["client"]) == before == expected(events, ["client"])
    assert agrees(worker)


def test_a_merged_group_of_many_bins_holds_each_once(
    owner: connection, worker: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MIN_ROWS", 1)
    keep_dimensions(worker, CLIENT)
    events: list[Event] = []
    for seed in range(8):
        more = mix(60, seed)
        for number, event in enumerate(more):
            event |= {
                "orgId": org(0),
                "modelId": "m",
                "clientId": "c",
                "latencyMs": 10 + 7 * number,
                "timeToFirstTokenMs": 10 + 7 * number,
            }
        events += more
        add(owner, worker, more)
    Merge(worker).merge_many(TABLE, HOUR, Stop())
    with owner.cursor() as cur:
        cur.execute(
            f"SELECT cardinality(latency_bins), cardinality(first_token_bins) FROM analytics.{TABLE}"
            " WHERE invocations > 60"
        )
        bins = len({bin_of(event["latencyMs"]) for event in events})
        assert cur.fetchall() == [(bins, bins)]
    assert stored(owner, ["client"]) == expected(events, ["client"])


def test_rows_are_merged_again_only_when_they_have_doubled(
    owner: connection, worker: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MIN_ROWS", 1)
    keep_dimensions(worker, CLIENT)
    merging = Merge(worker)
    for seed in range(2):
        add(owner, worker, mix(300, seed))
    merging.merge_many(TABLE, HOUR, Stop())
    merged, groups = rows_and_groups(owner)
    assert merged == groups
    add(owner, worker, mix(10, 2))
    more = rows_and_groups(owner)[0]
    merging.merge_many(TABLE, HOUR, Stop())
    assert rows_and_groups(owner)[0] == more > merged
    for seed in range(3, 12):
        add(owner, worker, mix(300, seed))
    merging.merge_many(TABLE, HOUR, Stop())
    rows, groups = rows_and_groups(owner)
    assert rows == groups


def test_what_another_worker_kept_this_one_from_merging_is_merged_the_next_time(
    owner: connection, database: TestDatabase, worker: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MIN_ROWS", 1)
    keep_dimensions(worker, CLIENT)
    for seed in range(2):
        add(owner, worker, mix(300, seed))
    merging = Merge(worker)
    with closing(connect(database.owner_url)) as holder:
        holder.cursor().execute("SELECT pg_advisory_lock(hashtext('analytics.merge_hour'))")
        merging.merge_many(TABLE, HOUR, Stop())
        rows, groups = rows_and_groups(owner)
        assert rows > groups
        holder.cursor().execute(
            "SELECT pg_advisory_unlock_all()"
        )  # before the connection ends, which takes a while
    merging.merge_many(TABLE, HOUR, Stop())
    assert rows_and_groups(owner) == (groups, groups)


def test_merging_beside_rollups_and_another_merge_counts_each_event_once(
    owner: connection, database: TestDatabase, worker: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MIN_ROWS", 1)
    keep_dimensions(worker, CLIENT)
    done = threading.Event()
    failures: list[Exception] = []

    def work() -> None:
        own = Database(database.rollup_worker_url, application_name="merge beside")
        merging = Merge(own)
        try:
            while not done.is_set():
                merging.merge_past(TABLE, HOUR, Stop())
        except Exception as error:  # noqa: BLE001  looked at below
            failures.append(error)
        own.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    events: list[Event] = []
    for seed in range(40):
        events += mix(50, seed)
        add(owner, worker, events[-50:])
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert stored(owner, ["client"]) == expected(events, ["client"])
    assert agrees(worker)


def test_a_past_hour_is_merged_before_it_is_added_to_its_day(owner: connection, worker: Database) -> None:
    keep_dimensions(worker, CLIENT)
    past = HOUR - timedelta(hours=3)
    with owner.cursor() as cur:
        cur.execute("UPDATE analytics.rollup_dimensions SET days_until = %s WHERE name = 'client'", (past,))
    events: list[Event] = []
    for seed in range(3):
        events += Mix(seed, start=past, end=past + timedelta(minutes=29)).events(200)
        add(owner, worker, events[-200:])
    rows, groups = rows_and_groups(owner)
    assert rows > groups
    Days(worker).add_past_hours(Stop())
    assert rows_and_groups(owner) == (groups, groups)
    assert stored(owner, ["client"]) == expected(events, ["client"])
