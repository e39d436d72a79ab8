"""What tests of the store share: traffic, batches of it, and what came of them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from psycopg2.extensions import connection

from deploy.local.traffic import Event, Router, encode
from ingestor.batch import Batch, Message
from ingestor.store import BatchStore, Outcome
from shared.rabbitmq.frames import Delivery
from tests.support.seed import rows

NOW = datetime.now(UTC)

NewStore = Callable[[], BatchStore]
"""Makes stores under names of their own: the fixture `new_store`."""


def traffic(count: int, seed: int = 1) -> list[Event]:
    return Router(seed=seed, start=NOW - timedelta(minutes=50), end=NOW).events(count)


def changed(events: list[Event]) -> list[Event]:
    """Return the same events with other content."""
    return [event | {"latencyMs": event["latencyMs"] + 1} for event in events]


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
    [row] = rows(owner, sql)
    return tuple(int(value or 0) for value in row)


def assert_stored_once(owner: connection, events: int) -> None:
    """There are so many events and as many keys, each once, whatever the part."""
    for table in ("usage_events", "event_keys"):
        counted = numbers(
            owner, f"SELECT count(*), count(DISTINCT (org_id, event_id)) FROM analytics.{table}"
        )
        assert counted == (events, events), table
