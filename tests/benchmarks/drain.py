"""Drain: the ingestor against a consumer that only receives and acknowledges the same messages.

200,000 messages of one event each wait in the quorum queue. The ingestor runs from the Procfile with the
rollup worker beside it, as in production; its time is from its first message to its last commit. Each has
the broker to itself, one after the other, and the better of two rounds counts. The peer of the limit
acknowledges each message; the note compares with one that does so by the thousand.

Then the same with ROLLUP_DIMENSIONS empty, against the release before, which knew no dimensions: from the
first message to the last rollup.
"""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from deploy.local.api import wait_until
from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import Publisher, Router, encode
from tests.benchmarks.place import Place, peak_memory_mb
from tests.benchmarks.rows import BenchRow
from tests.support.release_before import NoReleaseBefore, unpack

MESSAGES = 200_000
ROUNDS = 2
NO_DIMENSIONS = {"ROLLUP_DIMENSIONS": ""}

_SECONDS = """
    SELECT extract(epoch FROM max(committed_at) - min(received_at)),
           extract(epoch FROM max(rolled_up_at) - min(received_at)),
           percentile_disc(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM rolled_up_at - committed_at))
    FROM analytics.ingestion_batches"""
_ROLLED_UP = "SELECT sum(inserted) FROM analytics.ingestion_batches WHERE rolled_up_at IS NOT NULL"


class Drained(NamedTuple):
    """Events a second until the last commit and until the last rollup, the 95th percentile of the seconds
    from a commit to its rollup, and the ingestor's peak memory.
    """

    rate: float
    all_in_rate: float
    delay_seconds: float
    memory_mb: float


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure all of it."""
    bare: list[float] = []
    by_thousand: list[float] = []
    own: list[Drained] = []
    for number in range(ROUNDS):
        bodies = _bodies(number)
        with Place(stack, f"drain_{number}") as place:
            for seconds, ack_every in ((bare, 1), (by_thousand, 1_000)):
                fill(place, bodies)
                seconds.append(place.consume_bare(MESSAGES, ack_every=ack_every))
                rate = MESSAGES / seconds[-1]
                write_line(f"drain: bare consumer, {ack_every:,} an ack: {rate:,.0f} messages/s")
            fill(place, bodies)
            own.append(drain(place, MESSAGES))
            write_line(_said("this release", own[-1]))
    rate = max(drained.rate for drained in own)
    note = f"{rate * min(by_thousand) / MESSAGES:.2f} of one that acknowledges by the thousand"
    rows = [
        BenchRow(
            "drain 200,000 waiting events", "events/s", rate, "bare pika consumer", MESSAGES / min(bare), 0.7,
            "least", note,
        ),
        BenchRow("  peak memory", "MB", max(drained.memory_mb for drained in own), "limit", 150, 1, "most"),
    ]  # fmt: skip
    return rows + _without_dimensions(stack, write_line)


def _without_dimensions(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    own: list[Drained] = []
    before: list[Drained] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            release_before = unpack(Path(folder))
        except NoReleaseBefore as missing:
            raise SystemExit(f"drain: no peer, {missing}") from None
        for number in range(ROUNDS):
            bodies = _bodies(number)
            with Place(stack, f"before_{number}", release_before) as place:
                fill(place, bodies)
                before.append(drain(place, MESSAGES))
                write_line(_said("the release before", before[-1]))
            with Place(stack, f"none_{number}") as place:
                fill(place, bodies)
                own.append(drain(place, MESSAGES, **NO_DIMENSIONS))
                write_line(_said("no dimensions", own[-1]))
    rate, rate_before = (max(drained.all_in_rate for drained in each) for each in (own, before))
    delay = min(drained.delay_seconds for drained in own)
    return [
        BenchRow(
            "  rolled up, no dimensions", "events/s", rate, "the release before", rate_before, 0.95, "least"
        ),
        BenchRow("  commit to rollup, p95", "s", delay, "limit", 1, 1, "most"),
    ]


def _bodies(seed: int) -> list[bytes]:
    now = datetime.now(UTC)
    router = Router(seed=seed, start=now - timedelta(hours=1), end=now, orgs=20)
    return [encode(event) for event in router.events(MESSAGES)]


def _said(who: str, drained: Drained) -> str:
    return (
        f"drain: {who} {drained.rate:,.0f} events/s, {drained.all_in_rate:,.0f} rolled up, "
        f"p95 {drained.delay_seconds:.2f} s after the commit"
    )


def fill(place: Place, bodies: list[bytes]) -> None:
    """Put messages into the queue of events."""
    with Publisher(place.broker_url, place.topology.exchange) as publisher:
        publisher.publish(bodies)
    wait_until(lambda: place.waiting() == len(bodies), seconds=60, what="a full queue")


def drain(place: Place, events: int, **environ: str) -> Drained:
    """Let an ingestor and a rollup worker take all of them in. environ: settings of the worker."""
    [worker] = place.fleet.start_ready("rollup_worker", **environ)
    ingestor = place.fleet.start("ingestor")
    wait_until(lambda: place.number(_ROLLED_UP) == events, seconds=300, what=f"{events:,} events rolled up")
    [[committed, rolled_up, delay]] = place.rows(_SECONDS)
    memory = peak_memory_mb(ingestor)
    assert ingestor.stop() == 0, ingestor.log_tail()
    assert worker.stop() == 0, worker.log_tail()
    assert place.waiting() == 0, "messages were committed and not acknowledged"
    seconds, all_seconds, delay_seconds = (float(number) for number in (committed, rolled_up, delay))  # type: ignore[arg-type]  # numbers, as the query says
    return Drained(events / seconds, events / all_seconds, delay_seconds, memory)
