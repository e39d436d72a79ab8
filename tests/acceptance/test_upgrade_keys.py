"""The ledger of dedupe keys while both releases run: an event counts once, on the way and back."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.local.api import wait_until
from deploy.local.checkout import ROOT
from deploy.local.observer import Observer
from deploy.local.traffic import Event, Publisher, Router, encode
from tests.support.fleet import Fleet, Process
from tests.support.places import TestBroker
from tests.support.release_before import migrate

NOW = datetime.now(UTC)
EVENTS = 2_000
CHANGED = 300
SMALL_PARTS = {"DEDUPE_PART_KEYS": "200"}


@pytest.fixture
def observer(environ_before: dict[str, str], broker: TestBroker) -> Iterator[Observer]:
    """Reads the database that both releases share."""
    opened = Observer(environ_before["DATABASE_URL"], broker.url, broker.queue, broker.dead_letter_queue)
    yield opened
    opened.close()


@pytest.fixture
def fleets(
    environ_before: dict[str, str], release_before: Path, tmp_path: Path
) -> Iterator[tuple[Fleet, Fleet]]:
    """The release before, and this one."""
    made = Fleet(environ_before, tmp_path, release_before), Fleet(environ_before, tmp_path)
    yield made
    for fleet in made:
        fleet.close()


def test_events_of_every_part_are_duplicates_for_ingestors_of_either_release(  # noqa: PLR0915  one story
    fleets: tuple[Fleet, Fleet], environ_before: dict[str, str], broker: TestBroker, observer: Observer
) -> None:
    before, after = fleets
    router = Router(seed=1, start=NOW - timedelta(hours=1), end=NOW)
    events: list[Event] = []
    received = conflicts = 0

    def publish(more: list[Event], *, differing: int = 0) -> None:
        """Publish events, and wait until they were received."""
        nonlocal received, conflicts
        received, conflicts = received + len(more), conflicts + differing
        with Publisher(broker.url, broker.exchange) as out:
            out.publish([encode(more[at : at + 50]) for at in range(0, len(more), 50)])
        wait_until(lambda: observer.ingestion()["received"] == received, seconds=60, what="events received")

    def publish_new() -> None:
        events.extend(router.events(EVENTS // 2))
        publish(events[-EVENTS // 2 :])

    def publish_again() -> None:
        """Publish all of them once more, and some with another content; nothing may come of it."""
        publish(events)
        changed = [event | {"latencyMs": event["latencyMs"] + 1} for event in events[::7][:CHANGED]]
        publish(changed, differing=len(changed))
        [(stored, unique, keys)] = observer.rows(
            "SELECT count(*), count(DISTINCT event_id), (SELECT count(*) FROM analytics.event_keys)"
            " FROM analytics.usage_events"
        )
        assert (stored, unique, keys) == (len(events),) * 3
        [(counted,)] = observer.rows("SELECT sum(content_conflicts) FROM analytics.ingestion_batches")
        assert counted == conflicts

    def wait_for_parts(more_than: int) -> int:
        """Wait until more parts are closed and have filters; return how many."""
        counted = "SELECT count(*), count(*) FILTER (WHERE NOT filter_made) FROM analytics.key_parts"

        def there() -> bool:
            [(parts, without)] = observer.rows(counted)
            return bool(parts > more_than and without == 0)

        wait_until(there, seconds=60, what="closed parts with filters")
        [(parts, _)] = observer.rows(counted)
        return int(parts)

    def stop(*processes: Process) -> None:
        for process in processes:
            assert process.stop() == 0, process.log_tail()

    old_ingestor, old_worker = before.start_ready("ingestor", "rollup_worker")
    publish_new()
    migrate(environ_before["DATABASE_URL"], ROOT)
    publish_again()
    [worker] = after.start_ready("rollup_worker", **SMALL_PARTS)
    stop(old_worker)
    parts = wait_for_parts(0)
    publish_again()  # the ingestor of the release before, with closed parts
    publish_new()
    parts = wait_for_parts(parts)
    publish_again()
    [ingestor] = after.start_ready("ingestor")
    publish_new()  # both at once
    publish_again()
    stop(old_ingestor)
    parts = wait_for_parts(parts)
    publish_again()
    # And back.
    old_ingestor, old_worker = before.start_ready("ingestor", "rollup_worker")
    stop(ingestor, worker)
    publish_new()
    publish_again()
    stop(old_ingestor, old_worker)
