"""Batches: messages of 100 events through the ingestor against COPY of the same rows into the events table.

The peer has the rows ready as COPY text and writes them with all indexes, 2,000 to a durable commit; it
checks nothing, knows no duplicates and keeps no batch records. Neither has a rollup worker beside it.
Event ids are random, the costly kind. A second figure has one event in a hundred sent again soon after.
"""

import random
import time
from datetime import UTC, datetime, timedelta
from io import BytesIO

from deploy.local.api import wait_until
from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import Publisher, Router, encode
from shared.usage_event.decode import decode_event
from shared.usage_event.schema import COPY_COLUMNS
from tests.benchmarks.place import Place
from tests.benchmarks.rows import BenchRow

EVENTS = 200_000
EVENTS_A_MESSAGE = 100
EVENTS_A_COMMIT = 2_000
ROUNDS = 3
RESENT_SHARE = 0.01
RESENT_WITHIN_EVENTS = 20_000

_COPY = f"COPY analytics.usage_events ({', '.join(COPY_COLUMNS)}, batch_id, received_at) FROM STDIN"
_PARTITIONS = "SELECT analytics.create_event_partitions(current_date - 1, current_date + 1)"
_RECEIVED = "SELECT sum(received) FROM analytics.ingestion_batches"
_STORED = "SELECT sum(inserted) FROM analytics.ingestion_batches"
_SECONDS = "SELECT extract(epoch FROM max(committed_at) - min(received_at)) FROM analytics.ingestion_batches"


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure all three, the best of three rounds counts for each."""
    copied, own, resent = [], [], []
    for number in range(ROUNDS):
        now = datetime.now(UTC)
        bodies = [
            encode(event)
            for event in Router(seed=number, start=now - timedelta(hours=1), end=now, orgs=20).events(EVENTS)
        ]
        with Place(stack, f"copy_{number}") as place:
            copied.append(_copy(place, bodies, now))
            write_line(f"batches: COPY {EVENTS / copied[-1]:,.0f} events/s")
        with Place(stack, f"batches_{number}") as place:
            own.append(_ingest(place, bodies))
            write_line(f"batches: ingestor {EVENTS / own[-1]:,.0f} events/s")
        with Place(stack, f"resent_{number}") as place:
            resent.append(_ingest(place, _with_resent(bodies, random.Random(number))))
            write_line(f"batches: ingestor {EVENTS / resent[-1]:,.0f} events/s with some sent again")
    peer = "COPY of the rows", EVENTS / min(copied)
    return [
        BenchRow("100-event messages", "events/s", EVENTS / min(own), *peer, 0.5, "least"),
        BenchRow("  one in 100 sent again", "events/s", EVENTS / min(resent), *peer, 0.25, "least"),
    ]


def _with_resent(bodies: list[bytes], rng: random.Random) -> list[bytes]:
    """Return as many bodies, some of them replaced by one of those before it."""
    mixed = list(bodies)
    for at in range(1, len(mixed)):
        if rng.random() < RESENT_SHARE:
            mixed[at] = mixed[rng.randrange(max(0, at - RESENT_WITHIN_EVENTS), at)]
    return mixed


def _copy(place: Place, bodies: list[bytes], now: datetime) -> float:
    """Return the seconds COPY takes."""
    place.number(_PARTITIONS)
    lines = [decode_event(body, now).copy_line + f"\t1\t{now.isoformat()}" for body in bodies]
    commits = [
        "\n".join(lines[at : at + EVENTS_A_COMMIT]).encode() for at in range(0, EVENTS, EVENTS_A_COMMIT)
    ]
    began = time.perf_counter()
    with place.owner.cursor() as cur:
        for rows in commits:
            cur.copy_expert(_COPY, BytesIO(rows), size=1 << 20)
    return time.perf_counter() - began


def _ingest(place: Place, bodies: list[bytes]) -> float:
    """Return the seconds from the ingestor's first message to its last commit."""
    place.number(_PARTITIONS)
    messages = (
        b"[" + b",".join(bodies[at : at + EVENTS_A_MESSAGE]) + b"]"
        for at in range(0, EVENTS, EVENTS_A_MESSAGE)
    )
    with Publisher(place.broker_url, place.topology.exchange) as publisher:
        publisher.publish(messages)
    ingestor = place.fleet.start("ingestor")
    wait_until(lambda: place.number(_RECEIVED) == EVENTS, seconds=200, what="all events received")
    assert place.number(_STORED) == len(set(bodies))
    assert ingestor.stop() == 0, ingestor.log_tail()
    assert place.waiting() == 0, "messages were committed and not acknowledged"
    return place.number(_SECONDS)
