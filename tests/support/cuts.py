"""Rollups by dimension as they must be, added up in plain Python, beside what the database holds."""

import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg2.extensions import connection

from deploy.local.traffic import Event, org
from shared.latency_histogram import bin_of

MEMBERS = {
    "client": "clientId",
    "actor": "actorId",
    "apiKey": "apiKeyId",
    "provider": "provider",
    "operation": "operation",
}
DIMENSIONS = (*MEMBERS, "metadata.region")
GRAINS = {60: timedelta(hours=1), 1440: timedelta(days=1)}

Key = tuple[str, str, int, datetime, str, str]
"""Organisation, dimension, grain, bucket, model, value."""

_VALUES = ("", "a", "b", "Ü", "日本", "x" * 200, "' \" \\ , {}", "NULL")


@dataclass
class Rollup:
    """What one row says. The latencies and first tokens by bin."""

    invocations: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    cost: Decimal = Decimal(0)
    latencies: Counter[int] = field(default_factory=Counter)
    first_tokens: Counter[int] = field(default_factory=Counter)

    def add(self, event: Event) -> None:
        """Count an event."""
        self.invocations += 1
        self.statuses[event["status"]] += event["status"] != "success"
        for name in (
            "inputTokens", "outputTokens", "cachedInputTokens", "cacheWriteInputTokens", "reasoningTokens",
        ):  # fmt: skip
            self.sums[name] += event.get(name) or 0
        if event["status"] == "success":
            self.sums["successOutputTokens"] += event["outputTokens"]
            self.sums["successLatencyMs"] += event["latencyMs"]
        self.cost += Decimal(event["costEstimateCents"])
        self.latencies[bin_of(event["latencyMs"])] += 1
        if event.get("timeToFirstTokenMs") is not None:
            self.first_tokens[bin_of(event["timeToFirstTokenMs"])] += 1

    def comparable(self) -> tuple[Any, ...]:
        """Return it without zeros."""
        return (
            self.invocations, +self.statuses, +self.sums, self.cost.normalize(), +self.latencies,
            +self.first_tokens,
        )  # fmt: skip


def value_of(event: Event, dimension: str) -> str | None:
    """Return an event's value of a dimension, as rollups keep it."""
    if dimension == "":
        return ""
    if dimension == "errorCode":
        return event.get("errorCode") if event["status"] != "success" else None
    if dimension in MEMBERS:
        return event.get(MEMBERS[dimension])
    value = (event.get("metadata") or {}).get(dimension.removeprefix("metadata."))
    return None if value is None else value[:200]


def expected(
    events: Iterable[Event], dimensions: Sequence[str] = ("", *DIMENSIONS)
) -> dict[Key, tuple[Any, ...]]:
    """Return every row that the events make."""
    found: defaultdict[Key, Rollup] = defaultdict(Rollup)
    for event in events:
        at = datetime.fromisoformat(event["occurredAt"]).astimezone(UTC)
        for dimension in dimensions:
            value = value_of(event, dimension)
            if value is None:
                continue
            for grain in GRAINS:
                start = at.replace(minute=0, second=0, microsecond=0)
                start = start.replace(hour=0) if grain == 1440 else start
                found[event["orgId"], dimension, grain, start, event["modelId"], value].add(event)
    return {key: rollup.comparable() for key, rollup in found.items()}


# As docs/decisions/0030 says that days are read: with the hours that they do not hold yet.
_READ = """
    SELECT org_id::text, dimension, %(grain)s, bucket_start, model_id, value, invocations,
           status_error, status_timeout, status_throttled, input_tokens, output_tokens,
           cached_input_tokens, cache_write_input_tokens, reasoning_tokens,
           success_output_tokens, success_latency_ms, cost_estimate_cents,
           latency_bins, latency_counts, first_token_bins, first_token_counts
    FROM analytics.rollups
    WHERE dimension = %(dimension)s
      AND (grain = %(grain)s OR (%(grain)s = 1440 AND grain = 60 AND bucket_start >= (
           SELECT days_until FROM analytics.rollup_dimensions WHERE name = %(dimension)s)))"""


def stored(
    owner: connection, dimensions: Sequence[str] = ("", *DIMENSIONS), grains: Sequence[int] = (60, 1440)
) -> dict[Key, tuple[Any, ...]]:
    """Return every row that the database holds, days with the hours that they do not hold yet."""
    found: defaultdict[Key, Rollup] = defaultdict(Rollup)
    with owner.cursor() as cur:
        for dimension in dimensions:
            for grain in grains:
                cur.execute(_READ, {"dimension": dimension, "grain": grain})
                for row in cur.fetchall():
                    start = row[3].astimezone(UTC).replace(minute=0)  # a dimension's may be half an hour
                    start = start.replace(hour=0) if grain == 1440 else start
                    _add_row(found[row[0], row[1], grain, start, row[4], row[5]], row[6:])
    return {key: rollup.comparable() for key, rollup in found.items()}


def _add_row(rollup: Rollup, row: Sequence[Any]) -> None:
    rollup.invocations += row[0]
    for name, count in zip(("error", "timeout", "throttled"), row[1:4], strict=True):
        rollup.statuses[name] += count
    names = (
        "inputTokens", "outputTokens", "cachedInputTokens", "cacheWriteInputTokens", "reasoningTokens",
        "successOutputTokens", "successLatencyMs",
    )  # fmt: skip
    for name, total in zip(names, row[4:11], strict=True):
        rollup.sums[name] += int(total)
    rollup.cost += row[11]
    for bins, counts, histogram in ((*row[12:14], rollup.latencies), (*row[14:16], rollup.first_tokens)):
        for number, count in zip(bins, counts, strict=True):
            histogram[number] += count


class Mix:
    """Random events with every field there or not, values from a short list or of one event alone."""

    def __init__(self, seed: int, *, start: datetime, end: datetime) -> None:
        self._random = random.Random(seed)
        self._start = start
        self._seconds = int((end - start).total_seconds())

    def events(self, count: int) -> list[Event]:
        """Return this many."""
        return [self._event() for _ in range(count)]

    def _value(self, *, least: int = 0) -> str | None:
        roll = self._random.random()
        if roll < 0.25:
            return None
        return f"own-{self._random.getrandbits(40)}" if roll < 0.4 else self._random.choice(_VALUES[least:])

    def _event(self) -> Event:
        rng = self._random
        at = self._start + timedelta(seconds=rng.randrange(self._seconds), microseconds=rng.randrange(10**6))
        tokens_in, tokens_out = rng.choice((0, 7, 10**12)), rng.randrange(5_000)
        cached = rng.choice((None, 0, tokens_in // 2))
        latency = rng.choice((0, 5, 900, 2**31 - 1))
        status = rng.choice(("success", "success", "success", "error", "timeout", "throttled"))
        metadata = {"region": region} if (region := self._value()) is not None else {"other": "x"}
        return {
            "eventId": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            "orgId": org(rng.randrange(3)),
            "occurredAt": at.astimezone(UTC).isoformat(),
            "modelId": rng.choice(("m", "M", "vendor/模型")),
            "status": status,
            "latencyMs": latency,
            "inputTokens": tokens_in,
            "outputTokens": tokens_out,
            "costEstimateCents": Decimal(rng.randrange(10**12)).scaleb(-10),
            "errorCode": rng.choice((None, "rate_limit", "E")),
            "metadata": metadata,
            "cachedInputTokens": cached,
            "cacheWriteInputTokens": rng.choice((None, 0, tokens_in - (cached or 0))),
            "reasoningTokens": rng.choice((None, tokens_out)),
            "timeToFirstTokenMs": rng.choice((None, 0, latency)),
            **{member: self._value(least=1) for member in MEMBERS.values()},
        }
