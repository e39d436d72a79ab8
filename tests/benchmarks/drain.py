"""Drain: the ingestor against a consumer that only receives and acknowledges the same messages.

200,000 messages of one event each wait in the quorum queue. The ingestor runs from the Procfile with
the rollup worker beside it, as in production; its time is from its first message to its last commit.
Each has the broker to itself, one after the other, and the better of two rounds counts. The peer of the
limit acknowledges each message; the note compares with one that does so by the thousand.
"""

from datetime import UTC, datetime, timedelta

from deploy.local.api import wait_until
from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import Publisher, Router, encode
from tests.benchmarks.place import Place, peak_memory_mb
from tests.benchmarks.rows import BenchRow

MESSAGES = 200_000
ROUNDS = 2

_DRAIN_SECONDS = (
    "SELECT extract(epoch FROM max(committed_at) - min(received_at)) FROM analytics.ingestion_batches"
)
_ROLLUP_DELAY_SECONDS = (
    "SELECT percentile_disc(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM rolled_up_at - committed_at))"
    " FROM analytics.ingestion_batches"
)


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure both, the ingestor's peak memory, and how long a commit waits for its rollup."""
    bare: list[float] = []
    by_thousand: list[float] = []
    own, memory, delay = [], [], []
    for number in range(ROUNDS):
        with Place(stack, f"drain_{number}") as place:
            now = datetime.now(UTC)
            events = Router(seed=number, start=now - timedelta(hours=1), end=now, orgs=20).events(MESSAGES)
            bodies = [encode(event) for event in events]
            for seconds, ack_every in ((bare, 1), (by_thousand, 1_000)):
                _fill(place, bodies)
                seconds.append(place.consume_bare(MESSAGES, ack_every=ack_every))
                rate = MESSAGES / seconds[-1]
                write_line(f"drain: bare consumer, {ack_every:,} an ack: {rate:,.0f} messages/s")
            _fill(place, bodies)
            del events, bodies
            [worker] = place.fleet.start_ready("rollup_worker")
            ingestor = place.fleet.start("ingestor")
            wait_until(lambda: _all_rolled_up(place), seconds=300, what="200,000 events rolled up")
            own.append(place.number(_DRAIN_SECONDS))
            memory.append(peak_memory_mb(ingestor))
            delay.append(place.number(_ROLLUP_DELAY_SECONDS))
            write_line(
                f"drain: ingestor {MESSAGES / own[-1]:,.0f} events/s, rolled up in {delay[-1]:.2f} s (p95)"
            )
            assert ingestor.stop() == 0, ingestor.log_tail()
            assert worker.stop() == 0, worker.log_tail()
            assert place.waiting() == 0, "messages were committed and not acknowledged"
    name = "drain 200,000 waiting events"
    note = (
        f"{min(by_thousand) / min(own):.2f} of {MESSAGES / min(by_thousand):,.0f}/s with an ack each thousand"
    )
    rates = MESSAGES / min(own), MESSAGES / min(bare)
    return [
        BenchRow(name, "events/s", rates[0], "bare pika consumer", rates[1], 0.7, "least", note),
        BenchRow("  peak memory", "MB", max(memory), "limit", 150, 1, "most"),
        BenchRow("  commit to rollup, p95", "s", max(delay), "limit", 1, 1, "most"),
    ]


def _fill(place: Place, bodies: list[bytes]) -> None:
    with Publisher(place.broker_url, place.topology.exchange) as publisher:
        publisher.publish(bodies)
    wait_until(lambda: place.waiting() == len(bodies), seconds=60, what="a full queue")


def _all_rolled_up(place: Place) -> bool:
    rolled_up = "SELECT sum(inserted) FROM analytics.ingestion_batches WHERE rolled_up_at IS NOT NULL"
    return place.number(rolled_up) == MESSAGES
