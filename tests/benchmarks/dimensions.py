"""Dimensions: what the default ones cost, against the same events with none.

Events are as varied as can be: 250 organisations x 40 models, each with 50 clients, 50 keys and 2,000 actors,
so that nearly every event of a claim is a group of its own by client, key and actor. Rates are from the first
message to the last rollup; the better of two rounds counts for each. The note gives the bytes of a stored
event and of a rollup's row, with their keys.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import Event, Router, encode
from tests.benchmarks.drain import NO_DIMENSIONS, Drained, drain, fill
from tests.benchmarks.place import Place
from tests.benchmarks.rows import BenchRow

EVENTS = 200_000
EVENTS_A_MESSAGE = 100
ROUNDS = 2
MIN_EVENTS_PER_SECOND = 25_000

_MODELS = [f"provider-{number % 4}/model-{number}" for number in range(40)]
_EVENT_BYTES = """
    SELECT (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits
            WHERE inhparent = 'analytics.usage_events'::regclass)
         / (SELECT count(*) FROM analytics.usage_events)"""
_ROW_BYTES = """
    SELECT name, pg_total_relation_size(('analytics.' || hours_table)::regclass)
    FROM analytics.rollup_dimensions"""
_ROWS = "SELECT dimension, count(*) FROM analytics.rollups WHERE grain = 60 GROUP BY dimension"


def varied(router: Router, rng: random.Random, count: int) -> list[Event]:
    """Return a router's next events with all optional fields."""
    events = router.events(count)
    for event in events:
        event |= {
            "clientId": f"client-{rng.randrange(50)}",
            "apiKeyId": f"key-{rng.randrange(50)}",
            "actorId": f"actor-{rng.randrange(2_000)}",
            "provider": event["modelId"].partition("/")[0],
            "operation": rng.choice(("chat", "embeddings", "responses")),
            "cachedInputTokens": event["inputTokens"] // 2,
            "reasoningTokens": event["outputTokens"] // 3,
            "timeToFirstTokenMs": event["latencyMs"] // 4,
        }
    return events


def varied_events(count: int, *, seed: int, orgs: int = 250) -> list[Event]:
    """Return varied events of the last 20 minutes."""
    now = datetime.now(UTC)
    router = Router(seed=seed, start=now - timedelta(minutes=20), end=now, orgs=orgs, models=_MODELS)
    return varied(router, random.Random(seed), count)


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure single events and messages of a hundred."""
    rows: list[BenchRow] = []
    for size, name in ((1, "one-event messages"), (EVENTS_A_MESSAGE, "100-event messages")):
        kept: list[Drained] = []
        none: list[Drained] = []
        sizes = ""
        for number in range(ROUNDS):
            events = varied_events(EVENTS, seed=number)
            bodies = [encode(event) for event in events] if size == 1 else _batches(events, size)
            del events
            with Place(stack, f"none_{size}_{number}") as place:
                fill(place, bodies)
                none.append(drain(place, EVENTS, **NO_DIMENSIONS))
            with Place(stack, f"kept_{size}_{number}") as place:
                fill(place, bodies)
                kept.append(drain(place, EVENTS))
                sizes = _sizes(place)
            write_line(
                f"dimensions: {name}, {kept[-1].all_in_rate:,.0f} events/s rolled up, "
                f"none kept {none[-1].all_in_rate:,.0f}; bytes {sizes}"
            )
        rate, rate_none = (max(drained.all_in_rate for drained in each) for each in (kept, none))
        if size == 1:
            rows.append(
                BenchRow(
                    f"default dimensions, {name}", "events/s", rate, "limit", MIN_EVENTS_PER_SECOND, 1,
                    "least", f"bytes: {sizes}",
                )
            )  # fmt: skip
        rows.append(BenchRow(f"  {name}", "events/s", rate, "no dimensions", rate_none, 0.6, "least"))
    return rows


def _batches(events: Sequence[Event], size: int) -> list[bytes]:
    return [encode(list(events[at : at + size])) for at in range(0, len(events), size)]


def _sizes(place: Place) -> str:
    rows: dict[Any, Any] = dict(place.rows(_ROWS))  # type: ignore[arg-type]  # pairs, as the query says
    found = [f"event {place.number(_EVENT_BYTES):.0f}"]
    for name, size in place.rows(_ROW_BYTES):
        if rows.get(name):
            found.append(f"{name or 'model'} hour {size // rows[name]}")
    return ", ".join(found)
