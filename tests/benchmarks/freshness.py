"""Freshness: from publishing an event to seeing it in the usage API, at 3,000 events a second."""

import bisect
import threading
import time
from datetime import UTC, datetime, timedelta

from deploy.local.api import Api
from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import Publisher, Router, encode, org
from tests.benchmarks.place import Place
from tests.benchmarks.rows import BenchRow

RATE = 3_000
SECONDS = 60
_SLICE_SECONDS = 0.02


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure the 95th percentile over all events."""
    with Place(stack, "freshness") as place:
        gateway, *_ = place.fleet.start_ready("gateway", "ingestor", "rollup_worker")
        now = datetime.now(UTC)
        start, end = now - timedelta(minutes=1), now + timedelta(minutes=3)
        bodies = [
            encode(event) for event in Router(seed=1, start=start, end=now, orgs=1).events(RATE * SECONDS)
        ]
        published: list[tuple[int, float]] = []  # how many until when
        producer = threading.Thread(target=_publish, args=(place, bodies, published))
        seen: list[tuple[int, float]] = [(0, 0.0)]
        api = Api(gateway.url)
        write_line(f"freshness: publishing {RATE:,} events/s for {SECONDS} s")
        producer.start()
        deadline = time.monotonic() + SECONDS + 60
        while seen[-1][0] < len(bodies):
            assert time.monotonic() < deadline, (
                f"only {seen[-1][0]:,} of {len(bodies):,} events became visible"
            )
            count = api.usage(org(0), start, end)["totals"]["invocations"]
            seen.append((count, time.monotonic()))
            time.sleep(0.05)
        producer.join()
        delays = sorted(_delays(published, seen))
        rate = len(bodies) / (published[-1][1] - published[0][1])
        assert rate > 0.95 * RATE, f"only {rate:,.0f} events/s were published"
        p95 = delays[int(len(delays) * 0.95)]
        write_line(
            f"freshness: median {delays[len(delays) // 2]:.2f} s, p95 {p95:.2f} s at {rate:,.0f} events/s"
        )
        return [BenchRow("publish to visible, p95", "s", p95, "limit", 2, 1, "most", f"{rate:,.0f} events/s")]


def _publish(place: Place, bodies: list[bytes], published: list[tuple[int, float]]) -> None:
    size = int(RATE * _SLICE_SECONDS)
    with Publisher(place.broker_url, place.topology.exchange) as out:
        began = time.monotonic()
        for number, at in enumerate(range(0, len(bodies), size)):
            time.sleep(max(0.0, began + number * _SLICE_SECONDS - time.monotonic()))
            sent = time.monotonic()
            out.publish(bodies[at : at + size])
            published.append((at + size, sent))


def _delays(published: list[tuple[int, float]], seen: list[tuple[int, float]]) -> list[float]:
    """Return a delay for each slice: until as many events were visible as had been published with it."""
    counts = [count for count, _ in seen]
    return [seen[bisect.bisect_left(counts, until)][1] - sent for until, sent in published]
