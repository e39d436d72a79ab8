"""What tests of the store share: traffic, batches of it, and what came of them."""

from datetime import UTC, datetime, timedelta

from psycopg2.extensions import connection

from deploy.local.traffic import Event, Router, encode
from ingestor.batch import Batch, Message
from ingestor.store import BatchStore, Outcome
from shared.rabbitmq.frames import Delivery

NOW = datetime.now(UTC)


def traffic(count: int, seed: int = 1) -> list[Event]:
    return Router(seed=seed, start=NOW - timedelta(minutes=50), end=NOW).events(count)


def batch_of(events: list[Event]) -> Batch:
    batch = Batch(datetime.now(UTC))
    for start in range(0, len(events), 1_000):  # as many as a message may have
        body = encode(events[start : start + 1_000])
        batch.add(Message.of(Delivery(start + 1, b"usage", b"", body)))
    assert batch.dead_letters == []
    return batch


def store_batch(store: BatchStore, events: list[Event]) -> tuple[int, int, int]:
    """Store events as one batch; return how many were received, inserted, and differ in content."""
    outcome, batch = Outcome(), batch_of(events)
    store.store(list(batch.rows.values()), batch, outcome)
    return outcome.received, outcome.inserted, outcome.content_conflicts


def numbers(owner: connection, sql: str) -> tuple[int, ...]:
    with owner.cursor() as cur:
        cur.execute(sql)
        [row] = cur.fetchall()
    return tuple(int(value or 0) for value in row)
