"""The ledger of dedupe keys in parts: an event counts once, whichever part has its key."""

import threading
from contextlib import closing
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from psycopg2.extensions import connection

from ingestor import closed_parts
from ingestor import store as store_module
from shared.errors import DatabaseBusy
from shared.postgres import Database
from tests.support.ingestion import hold_key, wait_until_waiting
from tests.support.key_parts import PART, keep_parts, key_parts
from tests.support.places import TestDatabase
from tests.support.seed import rows
from tests.support.stores import NewStore, assert_stored_once, changed, numbers, store_batch, traffic

pytestmark = pytest.mark.usefixtures("fresh_lists")


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
    assert_stored_once(owner, 3 * PART + 70)


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
    assert_stored_once(owner, PART + 10)


def test_a_filter_that_cannot_be_read_stops_no_batch(
    new_store: NewStore, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = traffic(PART + 10)
    store_batch(new_store(), events[:PART])
    keep_parts(database)
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 0.2)
    with closing(psycopg2.connect(database.owner_url)) as other, other.cursor() as cur:
        cur.execute("LOCK TABLE analytics.key_filters IN ACCESS EXCLUSIVE MODE")
        store = new_store()
        assert store.filter_bytes == 0
        assert store_batch(store, events[PART - 20 :]) == (30, 10, 0)
    monkeypatch.setattr(closed_parts, "REFRESH_SECONDS", 0)
    store.check()
    assert store.filter_bytes > 0


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
    assert_stored_once(owner, PART + 40)


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
    assert_stored_once(owner, 2 * PART + 20)


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
    assert_stored_once(owner, PART + 20)


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
    assert_stored_once(owner, len(events))


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
