"""Rollups: every committed batch is added once, whatever comes between; proof and repair work."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg2
import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.observer import Observer
from deploy.local.traffic import Event, Expected, Router
from rollup_worker.rollups import Rollups
from rollup_worker.verify import Window, rebuild, verify
from shared.buckets import bucket_start
from shared.errors import DatabaseBusy, DependencyError
from shared.latency_histogram import PERCENTILES, add, bin_of, percentile_ms
from shared.metrics import RollupMetrics
from shared.postgres import Database
from tests.support.places import TestBroker, TestDatabase
from tests.support.seed import insert_batch

NOW = datetime.now(UTC)


@pytest.fixture
def worker_database(database: TestDatabase) -> Iterator[Database]:
    """A connection in the worker's own role."""
    opened = Database(database.rollup_worker_url, application_name="rollups under test")
    yield opened
    opened.close()


@pytest.fixture
def observer(database: TestDatabase, broker: TestBroker) -> Iterator[Observer]:
    opened = Observer(database.owner_url, broker.url, broker.queue, broker.dead_letter_queue)
    yield opened
    opened.close()


def rollups_over(database: Database) -> Rollups:
    return Rollups(database, RollupMetrics(CollectorRegistry()))


def drain(rollups: Rollups) -> int:
    """Add batches until none wait; return how many there were."""
    total = 0
    while added := rollups.add_waiting():
        total += added
    return total


def traffic(count: int, seed: int = 1, days: int = 2) -> list[Event]:
    return Router(seed=seed, start=NOW - timedelta(days=days), end=NOW, error_share=0.2).events(count)


def batches_of(events: list[Event], size: int) -> list[list[Event]]:
    return [events[at : at + size] for at in range(0, len(events), size)]


def window(days: int) -> Window:
    end = bucket_start(NOW, "day") + timedelta(days=1)
    return Window(end - timedelta(days=days), end)


def found_by_verify(database: Database, days: int = 4) -> list[str]:
    said: list[str] = []
    count = verify(database, window(days), said.append)
    lines = [line for line in said if line.startswith("DIFFERS")]
    assert len(lines) == count
    return lines


def test_late_and_shuffled_batches_add_up_by_hour_and_day(
    owner: connection, worker_database: Database, observer: Observer
) -> None:
    events = traffic(5_000)
    for batch in batches_of(events, 400):
        insert_batch(owner, batch)
    insert_batch(owner, [])  # nothing but duplicates
    assert drain(rollups_over(worker_database)) == 14
    observer.assert_equal(Expected(events))
    observer.assert_hours_equal(events)
    assert found_by_verify(worker_database) == []


def test_two_workers_at_once_add_each_batch_once_and_never_deadlock(
    owner: connection, database: TestDatabase, observer: Observer
) -> None:
    events = traffic(20_000)
    for batch in batches_of(events, 250):
        insert_batch(owner, batch)
    added: list[int] = []

    def work() -> None:
        own = Database(database.rollup_worker_url, application_name="one of two")
        added.append(drain(rollups_over(own)))
        own.close()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(added) == 80
    observer.assert_equal(Expected(events))


def test_who_helps_out_takes_many_batches_or_none(
    owner: connection, worker_database: Database, observer: Observer
) -> None:
    events = traffic(600)
    pieces = batches_of(events, 200)
    helper = Rollups(worker_database, RollupMetrics(CollectorRegistry()), min_batches=3)
    for piece in pieces[:2]:
        insert_batch(owner, piece)
    assert helper.add_waiting() == 0
    insert_batch(owner, pieces[2])
    assert helper.add_waiting() == 3
    observer.assert_equal(Expected(events))


def test_a_worker_killed_between_hours_and_days_leaves_no_trace(
    owner: connection, database: TestDatabase, worker_database: Database, observer: Observer
) -> None:
    events = traffic(1_000)
    insert_batch(owner, events)
    # Hold the days, so that the worker has added the hours and waits.
    holder = psycopg2.connect(database.owner_url)
    holder.cursor().execute("LOCK TABLE analytics.daily_rollups IN SHARE MODE")
    failures: list[Exception] = []

    def work() -> None:
        try:
            rollups_over(worker_database).add_waiting()
        except DependencyError as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    waiting = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND application_name = 'rollups under test'"
    )
    with owner.cursor() as cur:
        while cur.execute(waiting) or not (row := cur.fetchone()):  # type: ignore[func-returns-value]  # execute returns None
            time.sleep(0.02)
        cur.execute("SELECT pg_terminate_backend(%s)", row)
    worker.join()
    holder.close()
    assert len(failures) == 1
    assert observer.rows("SELECT count(*) FROM analytics.hourly_rollups") == [(0,)]
    assert drain(rollups_over(worker_database)) == 1
    observer.assert_equal(Expected(events))


def test_a_transaction_that_commits_late_is_found(
    owner: connection, database: TestDatabase, worker_database: Database, observer: Observer
) -> None:
    before, early, late = (traffic(300, seed=seed) for seed in (3, 1, 2))
    # With TimescaleDB a day's first insert is waited for by the others: it makes the day's chunk.
    insert_batch(owner, before)
    slow = psycopg2.connect(database.owner_url)
    insert_batch(slow, late)
    insert_batch(owner, early)
    rollups = rollups_over(worker_database)
    assert drain(rollups) == 2
    slow.commit()
    slow.close()
    assert drain(rollups) == 1
    observer.assert_equal(Expected(before + early + late))


def test_token_sums_may_pass_what_a_bigint_holds(
    owner: connection, worker_database: Database, observer: Observer
) -> None:
    huge = [event | {"inputTokens": 10**12} for event in traffic(100)]
    insert_batch(owner, huge)
    rollups = rollups_over(worker_database)
    drain(rollups)
    with owner.cursor() as cur:
        cur.execute("UPDATE analytics.hourly_rollups SET input_tokens = input_tokens + 9223372036854775807")
    insert_batch(
        owner,
        [
            event | {"eventId": event["eventId"][::-1].replace("-", "0")[:8] + event["eventId"][8:]}
            for event in huge
        ],
    )
    drain(rollups)
    [(most,)] = observer.rows("SELECT max(input_tokens) FROM analytics.hourly_rollups")
    assert most > 2**63


def test_verify_finds_one_wrong_token_and_rebuild_mends_it_while_batches_wait(
    owner: connection, worker_database: Database, observer: Observer
) -> None:
    shown, waiting = traffic(2_000, seed=1), traffic(500, seed=2)
    insert_batch(owner, shown)
    rollups = rollups_over(worker_database)
    drain(rollups)
    insert_batch(owner, waiting)
    with owner.cursor() as cur:
        cur.execute(
            "UPDATE analytics.hourly_rollups SET input_tokens = input_tokens + 1 WHERE bucket_start ="
            " (SELECT min(bucket_start) FROM analytics.hourly_rollups)"
        )
        cur.execute("DELETE FROM analytics.rollups_error_code_days")
    differences = found_by_verify(worker_database)
    assert any("input tokens" in line and "hour" in line for line in differences)
    assert any("error code" in line for line in differences)
    rebuild(worker_database, window(4), lambda _: None)
    assert found_by_verify(worker_database) == []
    drain(rollups)
    assert found_by_verify(worker_database) == []
    observer.assert_equal(Expected(shown + waiting))


def test_verify_finds_a_lost_latency_and_a_missing_day(owner: connection, worker_database: Database) -> None:
    insert_batch(owner, traffic(500))
    drain(rollups_over(worker_database))
    with owner.cursor() as cur:
        cur.execute("UPDATE analytics.daily_rollups SET latency_counts[1] = latency_counts[1] + 1")
        changed = cur.rowcount
    assert sum("latency histogram" in line for line in found_by_verify(worker_database)) == changed
    with owner.cursor() as cur:
        cur.execute("DELETE FROM analytics.daily_rollups")
    assert len(found_by_verify(worker_database)) == changed


def test_rebuild_while_batches_are_added_counts_everything_once(
    owner: connection, database: TestDatabase, worker_database: Database, observer: Observer
) -> None:
    events = traffic(8_000)
    pieces = batches_of(events, 100)
    for piece in pieces[:20]:
        insert_batch(owner, piece)
    done = threading.Event()

    def work() -> None:
        own = Database(database.rollup_worker_url, application_name="worker beside a rebuild")
        rollups = rollups_over(own)
        while not done.is_set():
            drain(rollups)
        drain(rollups)
        own.close()

    worker = threading.Thread(target=work)
    worker.start()
    for at, piece in enumerate(pieces[20:]):
        insert_batch(owner, piece)
        if at % 20 == 0:
            rebuild(worker_database, window(4), lambda _: None)
    done.set()
    worker.join()
    observer.assert_equal(Expected(events))
    assert found_by_verify(worker_database) == []


SHAPES: dict[str, Callable[[random.Random], int]] = {
    "heavy tail": lambda rng: int(rng.paretovariate(1.1) * 20),
    "bimodal": lambda rng: int(rng.choice((rng.gauss(40, 5), rng.gauss(9_000, 800)))),
    "constant": lambda _: 1_234,
    "zeros": lambda _: 0,
    "wide": lambda rng: rng.randrange(2**31),
}


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_percentiles_of_stored_histograms_are_within_one_percent_of_the_exact_ones(
    owner: connection, worker_database: Database, observer: Observer, shape: str
) -> None:
    rng = random.Random(shape)
    events = [event | {"latencyMs": max(0, min(2**31 - 1, SHAPES[shape](rng)))} for event in traffic(3_000)]
    for batch in batches_of(events, 150):
        insert_batch(owner, batch)
    drain(rollups_over(worker_database))
    exact = sorted(event["latencyMs"] for event in events)
    for table in ("hourly_rollups", "daily_rollups"):
        histogram: dict[int, int] = {}
        for bins, counts in observer.rows(f"SELECT latency_bins, latency_counts FROM analytics.{table}"):
            add(histogram, bins, counts)
        for name, quantile in PERCENTILES.items():
            rank = -(-quantile.numerator * len(exact) // quantile.denominator)
            wanted = exact[rank - 1]
            got = percentile_ms(histogram, quantile)
            assert got is not None
            assert abs(got - wanted) * 100 <= wanted, f"{table} {name}"


def test_the_database_and_the_library_put_every_latency_into_the_same_bin(observer: Observer) -> None:
    rng = random.Random(5)
    values = sorted({*range(3_000), 2**31 - 1, *(int(2 ** rng.uniform(0, 31)) for _ in range(3_000))})
    for value, number in observer.rows(
        f"SELECT v, analytics.latency_bin(v) FROM unnest(ARRAY{values}::int[]) AS v"
    ):
        assert bin_of(value) == number


def test_the_hot_statement_finds_batches_by_their_index_and_opens_only_their_days(
    owner: connection, worker_database: Database, observer: Observer
) -> None:
    for batch in batches_of(traffic(4_000, days=2), 50):
        insert_batch(owner, batch)
    noon = bucket_start(NOW, "day") - timedelta(hours=12)  # the day before is whole
    with owner.cursor() as cur:
        cur.execute("ANALYZE analytics.usage_events")
        cur.execute(
            "EXPLAIN SELECT count(*) FROM analytics.usage_events"
            " WHERE batch_id = ANY(%s) AND occurred_at BETWEEN %s AND %s",
            ([1, 2], noon - timedelta(hours=1), noon),
        )
        plan = "\n".join(row[0] for row in cur.fetchall())
    assert "batch_id" in plan.partition("Filter")[0]
    assert "Seq Scan" not in plan
    assert plan.count("Index") <= 4, "days outside the batches' bounds are opened"


def test_costs_keep_all_ten_decimals(
    owner: connection, worker_database: Database, observer: Observer
) -> None:
    events = [
        event | {"costEstimateCents": Decimal("0.0000000001") * at}
        for at, event in enumerate(traffic(999), 1)
    ]
    insert_batch(owner, events)
    drain(rollups_over(worker_database))
    [(cost,)] = observer.rows("SELECT sum(cost_estimate_cents) FROM analytics.daily_rollups")
    assert cost == Decimal("0.0000499500")


def test_a_claim_that_takes_too_long_is_halved_until_it_fits_and_grows_again(
    owner: connection, database: TestDatabase, observer: Observer
) -> None:
    """More than three batches at once pass the statement limit, as too many events would."""
    events = traffic(3_200)
    for batch in batches_of(events, 50):
        insert_batch(owner, batch)
    with owner.cursor() as cur:
        cur.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
            " 'BEGIN PERFORM pg_sleep(CASE WHEN (SELECT count(*) FROM now_shown) > 3 THEN 60 ELSE 0 END);"
            " RETURN NULL; END';"
            "CREATE TRIGGER slow AFTER UPDATE ON analytics.ingestion_batches"
            " REFERENCING NEW TABLE AS now_shown FOR EACH STATEMENT EXECUTE FUNCTION slow()"
        )
    limited = Database(
        database.rollup_worker_url, application_name="rollups with a short limit", statement_timeout_seconds=2
    )
    rollups = rollups_over(limited)
    failures = 0
    claims: list[int] = []
    while sum(claims) < 10:
        try:
            claims.append(rollups.add_waiting())
        except DatabaseBusy:
            failures += 1
            assert failures < 10, "the same claim again and again"
    assert claims[0] == 2, "32, 16, 8 and 4 batches took too long"
    with owner.cursor() as cur:
        cur.execute("DROP TRIGGER slow ON analytics.ingestion_batches")
    claims = []
    while added := rollups.add_waiting():
        claims.append(added)
    assert claims[:-1] == sorted(claims[:-1])
    assert max(claims) > 5
    limited.close()
    observer.assert_equal(Expected(events))


def test_a_histogram_of_many_bins_is_folded_rarely_and_keeps_every_count(observer: Observer) -> None:
    """1,000 distinct bins, appended in pieces of 10: folded about as often as it has doubled."""
    rng = random.Random(8)
    pieces = [[rng.randrange(1_000) for _ in range(10)] for _ in range(600)]
    bins: list[int] = []
    counts: list[int] = []
    folds, longest = 0, 0
    for piece in pieces:
        before = len(bins)
        [(bins, counts)] = observer.rows(
            f"SELECT * FROM analytics.latency_append(ARRAY{bins}::smallint[], ARRAY{counts}::bigint[],"
            f" ARRAY{piece}::smallint[], ARRAY{[1] * 10}::bigint[])"
        )
        folds += len(bins) != before + 10
        longest = max(longest, len(bins))
    appended = [number for piece in pieces for number in piece]
    histogram: dict[int, int] = {}
    add(histogram, bins, counts)
    assert histogram == {number: appended.count(number) for number in set(appended)}
    assert folds < 20, f"{folds} folds of 600 appends"
    assert longest <= 2 * len(histogram) + 20
