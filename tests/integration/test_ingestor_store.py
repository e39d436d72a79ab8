"""The store beside others that claim the same keys, and what its look for known keys costs."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal

import psycopg2
import pytest
from psycopg2.extensions import connection

from deploy.local.traffic import Event
from ingestor.store import BatchStore, Outcome
from shared.errors import DatabaseUnavailable
from shared.statements import load_statements
from tests.support.ingestion import hold_key, wait_until_waiting
from tests.support.places import TestDatabase
from tests.support.stores import batch_of, numbers, store_batch, traffic
from tests.support.tcp_proxy import TcpProxy

SQL = load_statements("ingest.sql")


def test_known_keys_are_left_out_whether_or_not_the_batch_before_had_any(
    new_store: Callable[[], BatchStore], owner: connection
) -> None:
    store, events = new_store(), traffic(60)
    changed = events[5] | {"latencyMs": events[5]["latencyMs"] + 1}
    assert store_batch(store, events[:20]) == (20, 20, 0)
    assert store_batch(store, [events[3], changed, *events[20:30]]) == (12, 10, 1)
    assert store_batch(store, [changed, *events[25:40]]) == (16, 10, 1)
    assert store_batch(store, events[:40]) == (40, 0, 0)
    assert store_batch(store, events[40:50]) == (10, 10, 0)
    assert store_batch(store, [*events[50:], events[50], events[0]]) == (12, 10, 0)
    assert numbers(owner, "SELECT count(*), count(DISTINCT event_id) FROM analytics.usage_events") == (60, 60)
    assert numbers(owner, "SELECT count(*) FROM analytics.event_keys") == (60,)
    assert numbers(
        owner, "SELECT sum(received), sum(inserted), sum(content_conflicts) FROM analytics.ingestion_batches"
    ) == (110, 60, 2)


def test_each_copy_of_a_known_event_is_compared_with_the_one_that_is_stored(
    new_store: Callable[[], BatchStore],
) -> None:
    [event] = traffic(1)
    changed = event | {"latencyMs": event["latencyMs"] + 1}
    store = new_store()
    assert store_batch(store, [event, changed, event]) == (3, 1, 1)
    assert store_batch(store, [changed, event, event]) == (3, 0, 1)


def test_events_that_are_stored_without_their_keys_are_duplicates_and_claim_them_again(
    new_store: Callable[[], BatchStore], owner: connection
) -> None:
    store, events = new_store(), traffic(40)
    assert store_batch(store, events[:20]) == (20, 20, 0)
    with owner.cursor() as cur:
        cur.execute("TRUNCATE analytics.event_keys")  # as if their part was dropped
    assert store_batch(store, events[20:25]) == (5, 5, 0)
    assert store_batch(store, events) == (40, 15, 0)  # 20 stored without keys, 5 with, 15 new
    assert store_batch(store, events) == (40, 0, 0)
    assert numbers(owner, "SELECT count(*), count(DISTINCT event_id) FROM analytics.usage_events") == (40, 40)
    assert numbers(owner, "SELECT count(*) FROM analytics.event_keys") == (40,)


def test_after_the_dedupe_window_the_stored_event_still_decides_what_differs(
    new_store: Callable[[], BatchStore], owner: connection
) -> None:
    odd: Event = {
        "modelId": "a\tb\\c\nd", "actorId": "\u00fc", "clientId": None, "errorCode": "E\r1",
        "costEstimateCents": Decimal("0.0000150"), "metadata": {"zz": "1", "b": 'q"\\', "a": "\u2028"},
    }  # fmt: skip
    extras: list[Event] = [{}, odd, {"metadata": {}}]
    first = [event | extra for event, extra in zip(traffic(3), extras, strict=True)]
    changed = [event | {"latencyMs": event["latencyMs"] + 1} for event in first]
    store = new_store()
    assert store_batch(store, first) == (3, 3, 0)
    with owner.cursor() as cur:
        cur.execute("TRUNCATE analytics.event_keys")  # as if their part was dropped
    assert store_batch(store, [*changed, first[1]]) == (4, 0, 3)
    assert store_batch(store, first) == (3, 0, 0)
    assert store_batch(store, changed) == (3, 0, 3)


def test_a_batch_without_an_answer_is_not_taken_for_that_of_the_other_writer(
    database: TestDatabase, owner: connection
) -> None:
    """Both writers use the process's name, and a clock may show the same instant twice."""
    events = traffic(10)
    with TcpProxy.before(database.ingestor_url) as proxy:
        urls = database.ingestor_url, proxy.url(database.ingestor_url)
        stores = [BatchStore(url, "host:1") for url in urls]
        for store in stores:
            store.check()
        batches = [batch_of(events[:5]), batch_of(events[5:])]
        batches[1].received_at = batches[0].received_at
        proxy.mode = "refuse"
        proxy.reset_connections()
        with pytest.raises(DatabaseUnavailable):
            stores[1].store(list(batches[1].rows.values()), batches[1], Outcome())
        proxy.mode = "pass"
        for store, batch in zip(stores, batches, strict=True):
            store.store(list(batch.rows.values()), batch, Outcome())
            store.close()
    assert numbers(owner, "SELECT count(*) FROM analytics.usage_events") == (10,)


@pytest.mark.parametrize(
    ("end", "stored"), [("commit", (20, 19, 1)), ("rollback", (20, 20, 0))], ids=["commit", "rollback"]
)
def test_a_batch_waits_for_another_that_has_one_of_its_keys_and_leaves_it_out_if_that_commits(
    new_store: Callable[[], BatchStore],
    database: TestDatabase,
    owner: connection,
    end: str,
    stored: tuple[int, int, int],
) -> None:
    events = traffic(20)
    with closing(psycopg2.connect(database.owner_url)) as other, ThreadPoolExecutor(1) as pool:
        hold_key(other, events[7])
        storing = pool.submit(store_batch, new_store(), events)
        wait_until_waiting(owner)
        getattr(other, end)()
        assert storing.result(10) == stored
    assert numbers(owner, "SELECT count(*) FROM analytics.usage_events") == (stored[1],)
    assert numbers(owner, "SELECT count(*) FROM analytics.event_keys") == (20,)


def test_two_batches_with_the_same_keys_in_another_order_wait_for_each_other_and_never_deadlock(
    new_store: Callable[[], BatchStore], database: TestDatabase, owner: connection
) -> None:
    first, middle, last = sorted(traffic(3), key=lambda event: str(event["eventId"]))
    with closing(psycopg2.connect(database.owner_url)) as other, ThreadPoolExecutor(2) as pool:
        hold_key(other, middle)
        stored: list[Future[tuple[int, int, int]]] = []
        for number, order in enumerate(([first, middle, last], [last, middle, first]), start=1):
            stored.append(pool.submit(store_batch, new_store(), order))
            wait_until_waiting(owner, number)
        other.rollback()
        assert [done.result(10) for done in stored] == [(3, 3, 0), (3, 0, 0)]
    assert numbers(owner, "SELECT count(*) FROM analytics.usage_events") == (3,)


def test_known_keys_are_found_in_the_primary_key_whatever_the_planner_knows_of_the_table(
    owner: connection,
) -> None:
    given = {
        "event_ids": "{" + ",".join(event["eventId"] for event in traffic(2_000)) + "}",
        "org_ids": "{" + ",".join(event["orgId"] for event in traffic(2_000)) + "}",
    }
    with owner.cursor() as cur:
        for analyzed in (False, True):
            cur.execute(
                "INSERT INTO analytics.event_keys SELECT gen_random_uuid(), gen_random_uuid(), 0, now()"
                " FROM generate_series(1, 20000)"
            )
            if analyzed:
                cur.execute("ANALYZE analytics.event_keys")
            cur.execute("EXPLAIN " + SQL["find_known"], given)
            plan = "\n".join(row[0] for row in cur.fetchall())
            assert "event_keys_pkey" in plan, plan
            assert "Seq Scan" not in plan, plan
