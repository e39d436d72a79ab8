"""The ledger of dedupe keys in parts: closed, filtered, dropped; an event counts once."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from psycopg2.extensions import connection

from deploy.local.traffic import Event
from ingestor import closed_parts
from ingestor import store as store_module
from ingestor.store import BatchStore
from rollup_worker import key_parts as key_parts_module
from shared import key_filter
from shared.errors import DatabaseBusy
from shared.postgres import Database
from shared.process import Stop
from tests.support.ingestion import hold_key, wait_until_waiting
from tests.support.key_parts import keep_parts, key_parts
from tests.support.places import TestDatabase
from tests.support.stores import numbers, store_batch, traffic

NewStore = Callable[[], BatchStore]
DAY = timedelta(days=1)
PART = 250
"""Events that fill a part of the smallest size."""


@pytest.fixture(autouse=True)
def fresh_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stores read the list of parts only when they have to: when a batch finds it changed."""
    monkeypatch.setattr(closed_parts, "REFRESH_SECONDS", 3600)


def rows(owner: connection, sql: str) -> list[tuple[object, ...]]:
    with owner.cursor() as cur:
        cur.execute(sql)
        return list(cur.fetchall())


def stored_once(owner: connection, events: int) -> None:
    """Assert that there are so many events and as many keys, each once, whatever the part."""
    for table in ("usage_events", "event_keys"):
        counted = numbers(
            owner, f"SELECT count(*), count(DISTINCT (org_id, event_id)) FROM analytics.{table}"
        )
        assert counted == (events, events), table


def changed(events: list[Event]) -> list[Event]:
    return [event | {"latencyMs": event["latencyMs"] + 1} for event in events]


def test_an_event_is_a_duplicate_whichever_part_has_its_key_and_a_conflict_if_it_differs(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    store, events = new_store(), traffic(3 * PART + 50)
    for start in range(0, 3 * PART, PART):
        assert store_batch(store, events[start : start + PART]) == (PART, PART, 0)
        keep_parts(database)
    assert store_batch(store, events[3 * PART :]) == (50, 50, 0)
    assert rows(owner, "SELECT part, filter_made, keys FROM analytics.key_parts ORDER BY part") == [
        (number, True, PART) for number in (1, 2, 3)
    ]
    some = [events[at] for at in (0, PART - 1, PART, 2 * PART + 7, 3 * PART + 49)]
    for other in (store, new_store()):
        assert store_batch(other, [*some, *changed(some)]) == (10, 0, 5)
        assert store_batch(other, changed(some)) == (5, 0, 5)
    fresh = traffic(20, seed=2)
    assert store_batch(store, [*fresh, *some]) == (25, 20, 0)
    stored_once(owner, 3 * PART + 70)


def test_a_closed_part_without_a_filter_is_asked_for_every_key(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    store, events = new_store(), traffic(PART + 10)
    store_batch(store, events[:PART])
    with key_parts(database) as (work, _):
        work.close()
    assert store_batch(store, [*events[PART:], *changed(events[:30])]) == (40, 10, 30)
    assert store.filter_bytes == 0
    keep_parts(database)
    other = new_store()
    assert other.filter_bytes > 0
    assert store_batch(other, [*events[PART:], *events[:30]]) == (40, 0, 0)
    stored_once(owner, PART + 10)


def test_at_the_start_all_writers_wait_for_the_filters(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    """To ask the parts for every key meanwhile costs more."""
    store_batch(new_store(), traffic(PART))
    keep_parts(database)
    closed, seen = closed_parts.ClosedParts(), list[int]()

    def refresh() -> None:
        with closing(Database(database.ingestor_url, application_name="ingestor")) as own:
            closed.refresh(own, if_due=True)
        seen.append(closed.filter_bytes)

    writers = [threading.Thread(target=refresh) for _ in range(2)]
    with closing(psycopg2.connect(database.owner_url)) as other, other.cursor() as cur:
        cur.execute("LOCK TABLE analytics.key_filters IN ACCESS EXCLUSIVE MODE")
        writers[0].start()
        wait_until_waiting(owner)
        writers[1].start()
        writers[1].join(0.2)
    for writer in writers:
        writer.join(10)
    assert len(seen) == 2
    assert min(seen) > 0


def test_the_same_event_of_another_organisation_is_another_event(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    store, events = new_store(), traffic(PART)
    store_batch(store, events)
    keep_parts(database)
    others = [event | {"orgId": str(uuid4())} for event in events[:40]]
    assert store_batch(store, others) == (40, 40, 0)
    stored_once(owner, PART + 40)


def test_a_batch_that_begins_before_the_part_is_closed_is_in_it(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    """The batch waits for a key of another's; the close waits for both."""
    store, events = new_store(), traffic(PART + 20)
    store_batch(store, events[:PART])
    late = events[PART:]
    outcomes: list[object] = []
    with closing(psycopg2.connect(database.owner_url)) as other:
        hold_key(other, late[5])
        storing = threading.Thread(target=lambda: outcomes.append(store_batch(store, late)))
        storing.start()
        wait_until_waiting(owner)
        with key_parts(database) as (work, _), pytest.raises(DatabaseBusy):
            work.close()
        other.rollback()
        storing.join(10)
    assert outcomes == [(20, 20, 0)]
    keep_parts(database)
    assert numbers(owner, "SELECT count(*) FROM analytics.event_keys_1") == (PART + 20,)
    assert store_batch(new_store(), late) == (20, 0, 0)


def test_a_list_read_again_just_before_it_changed_is_not_taken_for_the_new_one(
    new_store: NewStore, database: TestDatabase, owner: connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a batch is under way, the other writer's refresh makes the list anew, of the same parts."""
    store, events = new_store(), traffic(2 * PART + 20)
    store_batch(store, events[:PART])
    keep_parts(database)
    store_batch(store, events[PART : 2 * PART])
    copy_keys = store_module._copy_keys

    def close_before_it(*arguments: Any) -> None:
        monkeypatch.setattr(store_module, "_copy_keys", copy_keys)
        with closing(Database(database.ingestor_url, application_name="other writer")) as other:
            store._closed.refresh(other)
        with key_parts(database) as (work, _):
            work.close()
        copy_keys(*arguments)

    monkeypatch.setattr(store_module, "_copy_keys", close_before_it)
    assert store_batch(store, events[2 * PART :]) == (20, 20, 0)
    assert numbers(owner, "SELECT count(*) FROM analytics.event_keys_2") == (PART,)
    stored_once(owner, 2 * PART + 20)


def test_a_batch_that_waits_while_the_part_is_closed_looks_into_it(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    """Its list of parts is the old one, and its keys go into the next part; duplicates are found."""
    stores, events = [new_store(), new_store()], traffic(PART + 20)
    store_batch(stores[0], events[:PART])
    outcomes: list[object] = []
    with closing(psycopg2.connect(database.rollup_worker_url)) as closer, closer.cursor() as cur:
        cur.execute("SELECT analytics.close_event_keys(200, '1 day', now())")  # and does not commit yet
        storing = threading.Thread(
            target=lambda: outcomes.append(store_batch(stores[1], [*events[PART:], *changed(events[:3])]))
        )
        storing.start()
        wait_until_waiting(owner)
        closer.commit()
        storing.join(10)
    assert outcomes == [(23, 20, 3)]
    stored_once(owner, PART + 20)


def test_two_ingestors_with_the_same_events_store_each_once_while_parts_are_closed(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    events = traffic(4_000)
    stores = [new_store(), new_store()]
    inserted = [0, 0]

    def run(number: int) -> None:
        for start in range(0, len(events), 80):
            inserted[number] += store_batch(stores[number], events[start : start + 300])[1]

    writers = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        try:
            keep_parts(database)
        except DatabaseBusy:
            continue
    assert sum(inserted) == len(events)
    assert numbers(owner, "SELECT count(*) FROM analytics.key_parts")[0] > 1
    assert store_batch(new_store(), events[:2000]) == (2000, 0, 0)
    stored_once(owner, len(events))


def test_parts_are_dropped_whole_when_the_window_is_over_and_not_a_day_before(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    store, events = new_store(), traffic(2 * PART)
    for start in (0, PART):
        store_batch(store, events[start : start + PART])
        keep_parts(database)
    later = datetime.now(UTC)
    keep_parts(database, later + 34.9 * DAY)
    assert numbers(owner, "SELECT count(*) FROM analytics.key_parts") == (2,)
    assert store_batch(store, events[:20]) == (20, 0, 0)  # on the last day
    registry = keep_parts(database, later + 35.1 * DAY)
    assert registry.get_sample_value("analytics_dedupe_keys_pruned_total") == 2 * PART
    assert registry.get_sample_value("analytics_dedupe_parts", {"state": "closed"}) == 0
    assert rows(owner, "SELECT to_regclass('analytics.event_keys_1')") == [(None,)]
    assert numbers(owner, "SELECT count(*) FROM analytics.key_filters") == (0,)
    # A store that has not heard of it goes on, and finds by their rows the events that it stored itself.
    assert store_batch(store, [*events[:10], *changed(events[10:20])]) == (20, 0, 10)
    assert numbers(owner, "SELECT count(*) FROM analytics.usage_events") == (2 * PART,)


def test_a_shorter_window_drops_part_by_part_and_can_be_stopped(
    new_store: NewStore, database: TestDatabase, owner: connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, events = new_store(), traffic(3 * PART)
    for start in range(0, 3 * PART, PART):
        store_batch(store, events[start : start + PART])
        keep_parts(database)
    with key_parts(database, datetime.now(UTC) + 2 * DAY, DEDUPE_WINDOW="1d") as (work, _):
        stop = Stop()
        stop.set()
        work.drop(stop)
        assert numbers(owner, "SELECT count(*) FROM analytics.key_parts") == (3,)
        with closing(psycopg2.connect(database.owner_url)) as reader, reader.cursor() as cur:
            cur.execute("SELECT count(*) FROM analytics.event_keys_2")
            began = time.monotonic()
            with pytest.raises(DatabaseBusy):
                work.drop(Stop())
            assert time.monotonic() - began < 10
        assert rows(owner, "SELECT part FROM analytics.key_parts ORDER BY part") == [(2,), (3,)]
        work.drop(Stop())
    assert numbers(owner, "SELECT count(*) FROM analytics.key_parts") == (0,)


def test_the_open_part_is_closed_by_its_age_and_never_while_it_is_empty(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    keep_parts(database, datetime.now(UTC) + 9 * DAY)
    assert numbers(owner, "SELECT count(*) FROM analytics.key_parts") == (0,)
    store_batch(new_store(), traffic(5))
    keep_parts(database)
    assert numbers(owner, "SELECT count(*) FROM analytics.key_parts") == (0,)
    keep_parts(database, datetime.now(UTC) + 1.1 * DAY)
    assert rows(owner, "SELECT keys, filter_made FROM analytics.key_parts") == [(5, True)]
    assert numbers(owner, "SELECT count(*) FROM ONLY analytics.event_keys") == (0,)


def test_a_filter_is_made_in_passes_and_goes_on_where_it_was_stopped(
    new_store: NewStore, database: TestDatabase, owner: connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (key_filter, key_parts_module, closed_parts):
        monkeypatch.setattr(module, "SLICE_BLOCKS", 1)  # of 7
    monkeypatch.setattr(key_parts_module, "_MAX_SLICES", 2)
    monkeypatch.setattr(key_parts_module, "_PAGES_AT_ONCE", 3)
    store, events = new_store(), traffic(PART)
    store_batch(store, events)
    with key_parts(database) as (work, _):
        work.close()
        assert work.make_filter(Stop())
        assert numbers(owner, "SELECT count(*) FROM analytics.key_filters") == (2,)
        stop = Stop()
        stop.set()
        assert not work.make_filter(stop)
    assert rows(owner, "SELECT filter_made FROM analytics.key_parts") == [(False,)]
    assert new_store().filter_bytes == 0
    keep_parts(database)  # another worker
    assert rows(owner, "SELECT filter_made, keys FROM analytics.key_parts") == [(True, PART)]
    other = new_store()
    assert other.filter_bytes > 400
    assert store_batch(other, [*events, *traffic(5, seed=3)]) == (PART + 5, 5, 0)


def test_small_parts_are_merged_into_one_and_every_key_is_found_all_the_while(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    count = 8
    store, events = new_store(), traffic(count * PART + 30)
    for start in range(0, count * PART, PART):
        store_batch(store, events[start : start + PART])
        with key_parts(database) as (work, _):
            work.close()
            assert work.make_filter(Stop())
    new = iter(traffic(100, seed=2))

    def resend() -> None:
        """Send some events of each part again, with a new one."""
        again = events[: count * PART : 111]
        for each in (store, new_store()):
            assert store_batch(each, [*again, next(new)]) == (len(again) + 1, 1, 0)

    steps = 0
    with key_parts(database) as (work, _):
        while work.merge():
            steps += 1
            resend()
        assert steps == count + 2  # begin, copy each, make the index
        assert numbers(owner, "SELECT count(*) FROM analytics.key_parts WHERE merges IS NULL") == (count,)
        work.replace()  # has no filter yet
        assert numbers(owner, "SELECT count(*) FROM analytics.key_parts WHERE merges IS NULL") == (count,)
        assert work.make_filter(Stop())
        resend()
        with closing(psycopg2.connect(database.owner_url)) as reader, reader.cursor() as cur:
            cur.execute("SELECT count(*) FROM analytics.event_keys_2")
            with pytest.raises(DatabaseBusy):
                work.replace()
        resend()
        work.replace()
    assert rows(owner, "SELECT part, keys, merges FROM analytics.key_parts") == [(9, count * PART, None)]
    resend()
    assert store_batch(store, events) == (len(events), 30, 0)
    stored_once(owner, len(events) + 2 * (steps + 4 - 1))


def test_a_merge_goes_on_without_the_parts_that_are_dropped_meanwhile(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    store, events = new_store(), traffic(8 * PART)
    for start in range(0, 8 * PART, PART):
        store_batch(store, events[start : start + PART])
        with key_parts(database) as (work, _):
            work.close()
            work.make_filter(Stop())
    past = "UPDATE analytics.key_parts SET closed_at = closed_at - interval '40 days' WHERE part = 5"
    with key_parts(database) as (work, _):
        for _ in range(3):
            assert work.merge()  # begun, and two copied
        rows(owner, past + " RETURNING 0")
        work.drop(Stop())
    keep_parts(database)
    assert rows(owner, "SELECT part, keys FROM analytics.key_parts") == [(9, 7 * PART)]
    assert store_batch(store, events[: 4 * PART]) == (4 * PART, 0, 0)


def test_parts_are_merged_only_if_their_keys_are_near_each_other_in_time() -> None:
    def part(number: int) -> tuple[int, datetime, datetime]:
        at = datetime(2026, 1, 1, tzinfo=UTC) + number * DAY
        return number, at, at + DAY

    parts = [part(number) for number in (1, 5, *range(9, 20))]
    assert key_parts_module._choose(parts, 8 * DAY) == list(range(9, 17))
    assert key_parts_module._choose(parts, 7 * DAY) == []
    assert key_parts_module._choose(parts[:7], 99 * DAY) == []


def test_a_part_that_a_worker_is_at_is_left_to_it(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    store_batch(new_store(), traffic(PART))
    with key_parts(database, datetime.now(UTC) + 60 * DAY) as (work, _):
        work.close()
        with closing(psycopg2.connect(database.owner_url)) as other, other.cursor() as cur:
            cur.execute("SELECT FROM analytics.key_parts FOR UPDATE")
            assert not work.make_filter(Stop())
            work.drop(Stop())
        assert numbers(owner, "SELECT count(*) FROM analytics.key_parts") == (1,)


def test_a_writer_that_knows_of_one_table_finds_and_is_refused_the_keys_of_all_parts(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    """As the release before does: COPY without a word about closed parts, then a look into the one table."""
    event = traffic(PART)[17]
    store_batch(new_store(), traffic(PART))
    keep_parts(database)
    key = event["eventId"], event["orgId"]
    with closing(psycopg2.connect(database.ingestor_url)) as before, before.cursor() as cur:
        with pytest.raises(psycopg2.errors.UniqueViolation) as refused:
            cur.execute("INSERT INTO analytics.event_keys VALUES (%s, %s, 0, now())", key)
        assert refused.value.diag.table_name == "event_keys"
        before.rollback()
        cur.execute(
            "SELECT count(*) FROM analytics.event_keys AS key WHERE event_id = %s AND org_id = %s", key
        )
        assert cur.fetchone() == (1,)
        cur.execute("INSERT INTO analytics.event_keys VALUES (gen_random_uuid(), %s, 0, now())", key[1:])
    with closing(psycopg2.connect(database.rollup_worker_url)) as before, before.cursor() as cur:
        cur.execute(
            "DELETE FROM analytics.event_keys WHERE ctid = ANY (ARRAY("
            "SELECT ctid FROM analytics.event_keys WHERE first_received_at < now() + interval '1 day'))"
        )
        assert cur.rowcount == 0
    assert numbers(owner, "SELECT count(*) FROM analytics.event_keys") == (PART,)


def test_no_process_may_write_into_a_closed_part(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    store_batch(new_store(), traffic(PART))
    keep_parts(database)
    for url in (database.ingestor_url, database.rollup_worker_url):
        with closing(psycopg2.connect(url)) as process, process.cursor() as cur:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cur.execute("INSERT INTO analytics.event_keys_1 SELECT * FROM analytics.event_keys LIMIT 1")
            process.rollback()
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cur.execute("UPDATE analytics.event_keys_1 SET content_digest = 0")


def test_a_closed_part_is_asked_by_its_index_whatever_the_planner_knows_of_it(
    database: TestDatabase, owner: connection
) -> None:
    rows(
        owner,
        "INSERT INTO analytics.event_keys SELECT gen_random_uuid(), gen_random_uuid(), 0, now()"
        " FROM generate_series(1, 20000) RETURNING 0",
    )
    with key_parts(database) as (work, _):
        work.close()
    given = {
        name: f"{{{','.join(event[key] for event in traffic(2_000))}}}"
        for name, key in (("event_ids", "eventId"), ("org_ids", "orgId"))
    } | {"parts": f"{{{','.join(['event_keys_1'] * 2_000)}}}"}
    statement = closed_parts.find_in_tables(["event_keys_1"])
    with owner.cursor() as cur:
        for analyzed in (False, True):
            if analyzed:
                cur.execute("ANALYZE analytics.event_keys_1")
            cur.execute("EXPLAIN " + statement, given)
            plan = "\n".join(row[0] for row in cur.fetchall())
            assert "event_keys_1_pkey" in plan, plan
            assert "Seq Scan" not in plan, plan
