"""Ledger: what an event costs with a hundred million random dedupe keys stored, and with none.

The keys are made by SQL, in closed parts and a fifth of an open one, and the rollup worker makes the
filters as it would. Runs with them and without take turns, the best of each counts, and nothing differs but
the keys: events and rollups of the run before are removed, and autovacuum, which reads a new part once, is
kept from the closed ones. Each run begins with a checkpoint, which is when random ids cost most, and has
messages of 200 events and no dimensions. It is measured from when the ingestor, which has loaded its
filters and read its first messages, may write, to the last rollup. For "not in memory" the files of the
closed parts are dropped from the page cache all the while; PostgreSQL's own cache holds a tenth of them.
"""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from deploy.local.api import wait_until
from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import Event, Router, encode
from ingestor.writer import WRITERS
from tests.benchmarks.drain import NO_DIMENSIONS, fill
from tests.benchmarks.place import Place, peak_memory_mb
from tests.benchmarks.rows import BenchRow
from tests.support.seed import connect

PARTS = (40_000_000, 40_000_000, *(5_000_000,) * 4)
"""Two merged parts, and some that wait to be merged."""

OPEN_KEYS = 1_000_000
EVENTS = 500_000
EVENTS_A_MESSAGE = 200
RANDOM_ROUNDS = 3
OTHER_ROUNDS = 2

_KEYS = """
    INSERT INTO analytics.{table}
    SELECT md5({part} || ' ' || n)::uuid, md5('org' || n % 250)::uuid, n, now()
    FROM generate_series(1, {keys}) AS n"""
_SEED = f"""
    CREATE TABLE analytics.event_keys_{{part}} (LIKE analytics.event_keys) WITH (autovacuum_enabled = off);
    {_KEYS.format(table="event_keys_{part}", part="{part}", keys="{keys}")};
    SET maintenance_work_mem = '512MB';
    ALTER TABLE analytics.event_keys_{{part}} ADD PRIMARY KEY (event_id, org_id);
    GRANT SELECT ON analytics.event_keys_{{part}} TO analytics_ingestor, analytics_rollup_worker;
    ALTER TABLE analytics.event_keys_{{part}} INHERIT analytics.closed_event_keys"""
_PATHS = """
    SELECT current_setting('data_directory') || '/' || pg_relation_filepath(c.oid) FROM pg_class AS c
    WHERE c.relnamespace = 'analytics'::regnamespace AND c.relname ~ '^event_keys_[0-9]'
      AND c.relkind IN ('r', 'i')"""
_CLEAR = """
    TRUNCATE analytics.usage_events, analytics.rollups, analytics.model_freshness,
        analytics.ingestion_batches;
    SELECT 0"""
_HOLD = "BEGIN; LOCK TABLE analytics.ingestion_batches IN SHARE MODE; SELECT 0"
_HELD = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'ingestor' AND wait_event_type = 'Lock'"""
_RELEASE = "COMMIT; SELECT extract(epoch FROM clock_timestamp())"
_ROLLED_UP_AT = "SELECT extract(epoch FROM max(rolled_up_at)) FROM analytics.ingestion_batches"
_STORED = "SELECT sum(inserted) FROM analytics.ingestion_batches WHERE rolled_up_at IS NOT NULL"


class Taken(NamedTuple):
    """Events a second, bytes of the WAL an event, and the ingestor's peak memory in MB."""

    rate: float
    wal_bytes: float
    memory_mb: float


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure random and time-ordered ids on an empty ledger and a full one."""
    found: dict[str, list[Taken]] = {}

    def measure(name: str, place: Place, *, ordered: bool = False) -> None:
        taken = _take_in(place, _bodies(len(found) * 100 + len(found.get(name, ())), ordered=ordered))
        found.setdefault(name, []).append(taken)
        write_line(
            f"ledger: {name}: {taken.rate:,.0f} events/s, {taken.wal_bytes:,.0f} bytes of WAL an event, "
            f"ingestor {taken.memory_mb:.0f} MB"
        )

    with Place(stack, "ledger") as full:
        _fill(full, write_line)
        for number in range(RANDOM_ROUNDS):
            for name, ordered in (("random", False), ("ordered", True))[: 1 + (number < OTHER_ROUNDS)]:
                with Place(stack, f"empty_{name}_{number}") as place:
                    measure(f"{name}, empty", place, ordered=ordered)
                measure(f"{name}, full", full, ordered=ordered)
        with _evicted(full):
            for _ in range(OTHER_ROUNDS):
                measure("random, full, not in memory", full)
    best = {name: max(each, key=lambda taken: taken.rate) for name, each in found.items()}
    empty, stored = best["random, empty"], best["random, full"]
    keys = f"{sum(PARTS) / 1e6:.0f} million keys"
    cold, more_mb = best["random, full, not in memory"], stored.memory_mb - empty.memory_mb
    return [
        BenchRow(f"{keys}, random ids", "events/s", stored.rate, "empty ledger", empty.rate, 0.85, "least"),
        BenchRow("  WAL an event", "bytes", stored.wal_bytes, "empty ledger", empty.wal_bytes, 1.5, "most"),
        BenchRow("  ingestor's memory, more by", "MB", more_mb, "limit", 150, 1, "most"),
        BenchRow("  not in memory", "events/s", cold.rate, "empty ledger", empty.rate, 0.6, "least"),
        BenchRow(
            "  ids of version 7", "events/s", best["ordered, full"].rate, "empty ledger",
            best["ordered, empty"].rate, 0.85, "least",
        ),
    ]  # fmt: skip


def _fill(place: Place, write_line: WriteLine) -> None:
    """Make closed parts and the open one; the rollup worker makes filters meanwhile."""
    began = time.monotonic()
    worker = place.fleet.start("rollup_worker", None, **NO_DIMENSIONS)

    def make(keys: int) -> None:
        owner = connect(place.database_url)
        with owner.cursor() as cur:
            cur.execute("SELECT nextval(pg_get_serial_sequence('analytics.key_parts', 'part'))")
            [(part,)] = cur.fetchall()
            cur.execute(_SEED.format(part=part, keys=keys))
            cur.execute(
                "INSERT INTO analytics.key_parts (part, opened_at, closed_at) OVERRIDING SYSTEM VALUE"
                " VALUES (%s, now(), now())",
                (part,),
            )
        owner.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make, PARTS))
    write_line(f"ledger: {sum(PARTS):,} keys after {time.monotonic() - began:.0f} s")
    with place.owner.cursor() as cur:
        cur.execute("SET analytics.asks_closed_parts = 'on'")
        cur.execute(_KEYS.format(table="event_keys", part="'open'", keys=OPEN_KEYS))
    wait_until(
        lambda: place.number("SELECT count(*) FROM analytics.key_parts WHERE NOT filter_made") == 0,
        seconds=600,
        what="the filters",
        every_seconds=0.5,
    )
    write_line(
        f"ledger: filters made after {time.monotonic() - began:.0f} s, worker {peak_memory_mb(worker):.0f} MB"
    )
    assert worker.stop() == 0, worker.log_tail()


def _bodies(seed: int, *, ordered: bool) -> list[bytes]:
    now = datetime.now(UTC)
    router = Router(seed=seed, start=now - timedelta(hours=1), end=now, orgs=50)
    chunks = (router.events(EVENTS_A_MESSAGE) for _ in range(EVENTS // EVENTS_A_MESSAGE))
    return [encode(_in_order(events) if ordered else events) for events in chunks]


def _in_order(events: list[Event]) -> list[Event]:
    """Give events ids of version 7, as if made now: their time in ms, then what is random in them."""
    at = time.time_ns() // 1_000_000
    stamp = f"{at >> 16:08x}-{at & 0xFFFF:04x}-7"
    return [event | {"eventId": stamp + event["eventId"][15:]} for event in events]


def _take_in(place: Place, bodies: list[bytes]) -> Taken:
    """Let an ingestor and a rollup worker take all of them in."""
    fill(place, bodies)
    place.rows(_CLEAR)
    place.rows("CHECKPOINT; SELECT 0")
    wal = place.number("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
    [worker] = place.fleet.start_ready("rollup_worker", **NO_DIMENSIONS)  # its upkeep takes the same lock
    place.rows(_HOLD)
    [ingestor] = place.fleet.start_ready("ingestor")
    wait_until(lambda: place.number(_HELD) == WRITERS, seconds=60, what="the first batches")
    began = place.number(_RELEASE)
    wait_until(lambda: place.number(_STORED) == EVENTS, seconds=300, what="everything rolled up")
    wal = place.number("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn") - wal
    seconds, memory = place.number(_ROLLED_UP_AT) - began, peak_memory_mb(ingestor)
    assert ingestor.stop() == 0, ingestor.log_tail()
    assert worker.stop() == 0, worker.log_tail()
    return Taken(EVENTS / seconds, wal / EVENTS, memory)


@contextmanager
def _evicted(place: Place) -> Iterator[None]:
    """Keep the closed parts' files out of the page cache."""
    place.rows("CHECKPOINT; SELECT 0")
    files = [
        path
        for [name] in place.rows(_PATHS)
        for path in Path(str(name)).parent.glob(f"{Path(str(name)).name}*")
    ]
    assert files, "this needs a server whose files can be read here"
    done = threading.Event()

    def evict() -> None:
        while True:
            for path in files:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if done.wait(0.5):
                return

    thread = threading.Thread(target=evict)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
