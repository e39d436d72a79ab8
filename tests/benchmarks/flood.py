"""Flood: the memory of an ingestor that meets far more than it can write, in messages small and large.

The ingestor starts with 60 MB of messages of nearly 1 MiB waiting (1,000 events each), among 60,000 small
ones and 5,000 invalid ones, and has to take them all.
"""

import random
from datetime import UTC, datetime, timedelta

from deploy.local.api import wait_until
from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import Publisher, Router, encode
from tests.benchmarks.place import Place, peak_memory_mb
from tests.benchmarks.rows import BenchRow

LARGE, SMALL, INVALID = 60, 60_000, 5_000
LIMIT_MB = 150


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure the peak of the resident memory."""
    now = datetime.now(UTC)
    router = Router(seed=1, start=now - timedelta(hours=1), end=now, orgs=20)
    padding = {"padding": "x" * 600}
    bodies = [encode([event | {"metadata": padding} for event in router.events(1_000)]) for _ in range(LARGE)]
    bodies += [encode(event) for event in router.events(SMALL)]
    bodies += [b'{"eventId": %d}' % number for number in range(INVALID)]
    random.Random(1).shuffle(bodies)
    total = LARGE * 1_000 + SMALL
    stored = "SELECT sum(inserted) FROM analytics.ingestion_batches"
    with Place(stack, "flood") as place:
        with Publisher(place.broker_url, place.topology.exchange) as publisher:
            publisher.publish(bodies)
        ingestor = place.fleet.start("ingestor")
        wait_until(lambda: place.number(stored) == total, seconds=200, what=f"{total} events stored")
        wait_until(lambda: place.dead_letters() == INVALID, seconds=60, what=f"{INVALID} dead letters")
        peak = peak_memory_mb(ingestor)
        write_line(f"flood: at most {peak:.0f} MB")
        assert ingestor.stop() == 0, ingestor.log_tail()
    return [BenchRow("flood, peak memory", "MB", peak, "limit", LIMIT_MB, 1, "most")]
