"""The work on the ledger's parts: they are closed, filtered, merged and dropped, and no key is lost by it."""

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest
from psycopg2.extensions import connection

from ingestor import closed_parts
from rollup_worker import key_parts as key_parts_module
from shared import key_filter
from shared.errors import DatabaseBusy
from shared.process import Stop
from tests.support.key_parts import PART, keep_parts, key_parts
from tests.support.places import TestDatabase
from tests.support.seed import rows
from tests.support.stores import NewStore, assert_stored_once, changed, numbers, store_batch, traffic

pytestmark = pytest.mark.usefixtures("fresh_lists")

DAY = timedelta(days=1)


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


def test_no_part_lets_autovacuum_gather_statistics_of_the_tree(
    new_store: NewStore, database: TestDatabase, owner: connection
) -> None:
    """They would be read from all over the closed parts, each time that the open one has grown."""
    options = (
        "SELECT reloptions FROM pg_class WHERE oid = ANY"
        " (ARRAY['analytics.event_keys', 'analytics.event_keys_1']::regclass[])"
    )
    store_batch(new_store(), traffic(PART))
    keep_parts(database)
    assert rows(owner, options) == [(["autovacuum_analyze_threshold=2147483647"],)] * 2


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
    assert_stored_once(owner, len(events) + 2 * (steps + 4 - 1))


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
