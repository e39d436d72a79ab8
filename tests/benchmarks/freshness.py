"""Freshness: from publishing an event to seeing it in the usage API, at two rates.

Events carry all optional fields, and the default dimensions are kept.
"""

import bisect
import multiprocessing
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from typing import NamedTuple

from deploy.local.api import Api
from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import Event, Publisher, encode, org
from tests.benchmarks.dimensions import varied_events
from tests.benchmarks.place import Place
from tests.benchmarks.rows import BenchRow

_SLICE_SECONDS = 0.02


class Traffic(NamedTuple):
    """A steady rate of events for a while, and the seconds within which 95 of 100 must be visible.

    Above some 8,000 single messages a second the publisher takes what is left of two cores.
    """

    rate: int
    seconds: int
    events_a_message: int
    max_p95_seconds: float


TRAFFIC = (Traffic(3_000, 60, 1, 0.4), Traffic(15_000, 20, 10, 3))


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure the 95th percentile over all events of each rate."""
    return [_measure(stack, write_line, traffic) for traffic in TRAFFIC]


def _measure(stack: LocalStack, write_line: WriteLine, traffic: Traffic) -> BenchRow:
    with Place(stack, f"freshness_{traffic.rate}") as place:
        gateway, *_ = place.fleet.start_ready("gateway", "ingestor", "rollup_worker")
        now = datetime.now(UTC)
        start, end = now - timedelta(minutes=21), now + timedelta(minutes=3)
        events = varied_events(traffic.rate * traffic.seconds, seed=1, orgs=1)
        bodies = _bodies(events, traffic.events_a_message)
        # A process of its own, so that asking and publishing do not wait for each other.
        answer, told = multiprocessing.Pipe(duplex=False)
        producer = multiprocessing.Process(
            target=_publish, args=(place.broker_url, place.topology.exchange, bodies, traffic, told)
        )
        seen: list[tuple[int, float]] = [(0, 0.0)]
        api = Api(gateway.url)
        write_line(f"freshness: publishing {traffic.rate:,} events/s for {traffic.seconds} s")
        producer.start()
        deadline = time.monotonic() + traffic.seconds + 60
        while seen[-1][0] < len(events):
            assert time.monotonic() < deadline, (
                f"only {seen[-1][0]:,} of {len(events):,} events became visible"
            )
            count = api.usage(org(0), start, end)["totals"]["invocations"]
            seen.append((count, time.monotonic()))
            time.sleep(0.05)
        published: list[tuple[int, float]] = answer.recv()
        producer.join()
        delays = sorted(_delays(published, seen))
        rate = len(events) / (published[-1][1] - published[0][1])
        p95 = delays[int(len(delays) * 0.95)]
        write_line(
            f"freshness: median {delays[len(delays) // 2]:.2f} s, p95 {p95:.2f} s at {rate:,.0f} events/s"
        )
        assert rate > 0.95 * traffic.rate, f"only {rate:,.0f} events/s were published"
        name = f"publish to visible, {traffic.rate:,}/s, p95"
        return BenchRow(name, "s", p95, "limit", traffic.max_p95_seconds, 1, "most", f"{rate:,.0f} events/s")


def _bodies(events: list[Event], size: int) -> list[bytes]:
    if size == 1:
        return [encode(event) for event in events]
    return [encode(events[at : at + size]) for at in range(0, len(events), size)]


def _publish(broker_url: str, exchange: str, bodies: list[bytes], traffic: Traffic, told: Connection) -> None:
    """Publish, and tell how many events were published by when."""
    size = int(traffic.rate * _SLICE_SECONDS) // traffic.events_a_message
    published: list[tuple[int, float]] = []
    with Publisher(broker_url, exchange) as out:
        began = time.monotonic()
        for number, at in enumerate(range(0, len(bodies), size)):
            time.sleep(max(0.0, began + number * _SLICE_SECONDS - time.monotonic()))
            sent = time.monotonic()
            out.publish(bodies[at : at + size])
            published.append(((at + size) * traffic.events_a_message, sent))
    told.send(published)


def _delays(published: list[tuple[int, float]], seen: list[tuple[int, float]]) -> list[float]:
    """Return a delay for each slice: until as many events were visible as had been published with it."""
    counts = [count for count, _ in seen]
    return [seen[bisect.bisect_left(counts, until)][1] - sent for until, sent in published]
