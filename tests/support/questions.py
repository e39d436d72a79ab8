"""Random events, and random questions about them that have an answer."""

import random
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from deploy.local.traffic import org
from shared.settings import KeptDimension
from tests.support.oracle import MEMBERS, Event

MODELS = ("gpt-9", "GPT-9", "meta-llama/Llama-3.1-8B", "a'; --", "\u212bngstr\u00f6m \U0001f600", "=1+1")
CLIENTS = ("web", "Web", "sdk, python", 'say "hi"', "\u65e5\u672c", "-2+3", "\u00e9", "e\u0301", " ")
LONG = "\u65e5" * 200
REGIONS = ("eu-1", "us-1", "", "\u00fcber", LONG, f"{LONG}1", f"{LONG}2")
ZONES = (
    "UTC", "UTC", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Europe/Berlin", "Pacific/Auckland",
    "Australia/Lord_Howe", "America/St_Johns", "Pacific/Chatham", "Africa/Cairo", "Asia/Tokyo",
    "Pacific/Kiritimati", "Europe/London",
)  # fmt: skip
PART_HOUR_ZONES = {
    "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Chatham",
}  # fmt: skip
ORGS = 3
# The nights in which clocks change within the window of the events, in several zones.
NIGHTS = ("2026-10-03T15:30:00Z", "2026-10-04T14:00:00Z", "2026-10-25T01:00:00Z", "2026-11-01T06:00:00Z",
          "2026-10-29T21:00:00Z", "2026-09-26T14:00:00Z")  # fmt: skip
NOW = datetime.now(UTC)
FIRST = NOW - timedelta(days=70)
DAYS_ONLY = {"actor"}
KEPT = tuple(KeptDimension(name, keeps_hours=name not in DAYS_ONLY) for name in (*MEMBERS, "metadata.region"))
# Those that are asked for, some of them of no event.
VALUES: dict[str, tuple[str, ...]] = {
    "client": CLIENTS,
    "actor": ("user-1", "user-2", "user-3", "nobody"),
    "apiKey": ("key-1", "key-9"),
    "provider": ("openai", "anthropic", "nobody"),
    "operation": ("chat",),
    "metadata.region": REGIONS,
}
GRANULARITIES = ("hour", "day", "week", "month", "total")


def an_event(rng: random.Random) -> Event:
    """Return an event whose values are skewed, odd, or not there."""
    if rng.random() < 0.4:
        night = datetime.fromisoformat(rng.choice(NIGHTS))
        at = night + timedelta(seconds=rng.randrange(-7200, 7200))
    elif rng.random() < 0.05:
        at = NOW + timedelta(minutes=rng.randrange(24 * 60))
    else:
        at = FIRST + (NOW - FIRST) * rng.random() ** 0.5
    if rng.random() < 0.2:
        at = at.replace(minute=rng.choice((0, 15, 30, 45)), second=0, microsecond=0)
    status = rng.choice(("success", "success", "success", "error", "timeout", "throttled"))
    tokens_in, tokens_out = int(rng.paretovariate(0.5)) % 10**12, int(rng.paretovariate(0.7)) % 10**12
    cached = rng.randrange(tokens_in + 1)
    latency = rng.choice((0, 1, 98, 99, 100, int(rng.lognormvariate(6, 1)), 2**31 - 1))
    event: Event = {
        "eventId": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "orgId": org(min(int(rng.expovariate(1)), ORGS - 1)),
        "occurredAt": at.isoformat().replace("+00:00", "Z"),
        "modelId": rng.choice(MODELS),
        "status": status,
        "latencyMs": latency,
        "inputTokens": tokens_in,
        "outputTokens": tokens_out,
        "costEstimateCents": Decimal(rng.randrange(10 ** rng.choice((1, 5, 12)))).scaleb(-10),
        "clientId": rng.choice((None, *CLIENTS)),
        "actorId": rng.choice((None, f"user-{int(rng.paretovariate(0.8)) % 60}")),
        "apiKeyId": rng.choice((None, None, None, "key-1", "key-2")),
        "provider": rng.choice(("openai", "anthropic")),
        "operation": None,
        "metadata": rng.choice((None, {}, {"region": rng.choice(REGIONS), "x": "y"})),
        "errorCode": rng.choice((None, *(f"CODE_{number}" for number in range(14)))),
        "cachedInputTokens": rng.choice((None, cached)),
        "cacheWriteInputTokens": rng.choice((None, tokens_in - cached)),
        "reasoningTokens": rng.choice((None, rng.randrange(tokens_out + 1))),
        "timeToFirstTokenMs": rng.choice((None, rng.randrange(latency + 1))),
    }
    return event


def a_question(rng: random.Random, *, platform: bool, reliability: bool) -> dict[str, Any]:  # noqa: C901  many choices
    """Return the parameters of a question that has an answer."""
    dimension = rng.choice((None, None, *MEMBERS, "metadata.region"))
    granularity = rng.choice(GRANULARITIES)
    zone = rng.choice(ZONES)
    if dimension in DAYS_ONLY:
        zone, granularity = "UTC", rng.choice(("day", "week", "month", "total"))
    if reliability and rng.random() < 0.1 and dimension not in DAYS_ONLY:
        granularity = "minute"
    span = timedelta(minutes=rng.randrange(1, {"minute": 350, "hour": 5000}.get(granularity, 100_000)))
    night = datetime.fromisoformat(rng.choice(NIGHTS))
    middle = night if rng.random() < 0.5 else FIRST + (NOW - FIRST) * rng.random()
    start = middle - span * rng.random()
    asked: dict[str, Any] = {
        "start": start.isoformat(),
        "end": (start + span).isoformat(),
        "granularity": granularity,
    }
    if zone != "UTC" or rng.random() < 0.1:
        asked["timeZone"] = zone
    groups = [name for name in ("org", "model") if rng.random() < 0.5 and (platform or name == "model")]
    name = MEMBERS.get(dimension or "", dimension)
    if dimension is not None and rng.random() < 0.7:
        groups.append(dimension)
    if rng.random() < 0.9:
        asked["groupBy"] = ",".join(groups) or "none"
    if dimension is not None and (dimension not in groups or rng.random() < 0.3 or "groupBy" not in asked):
        known = VALUES[dimension]
        asked[str(name)] = rng.sample(known, rng.randrange(1, min(4, len(known)) + 1))
    if rng.random() < 0.3:
        asked["modelId"] = rng.sample((*MODELS, "nobody's"), rng.randrange(1, 4))
    if platform and rng.random() < 0.3:
        asked["orgId"] = rng.sample([org(number) for number in range(ORGS)], rng.randrange(1, ORGS + 1))
    if rng.random() < 0.4:
        asked["top"] = str(rng.choice((1, 2, 3, 10, 100)))
        asked["orderBy"] = rng.choice(
            ("costEstimateCents", "invocations", "errors", "inputTokens", "outputTokens")
        )
    if rng.random() < 0.3:
        asked["compare"] = "previous"
    return asked
