"""Made-up traffic with known sums: usage events as a platform's router would publish them.

The same seed makes the same events. `Expected` adds them up with exact decimals, so that any
answer of the service can be held against it to the last token and decimal.
"""

import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

import msgspec
import pika

Event = dict[str, Any]

MODELS = (
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B",
    "mistralai/Mistral-7B-v0.3",
    "Qwen/Qwen2.5-72B-Instruct",
    "openai/gpt-oss-120b",
)

_CENTS_PER_TOKEN = Decimal("0.000015")
_encoder = msgspec.json.Encoder(decimal_format="number")


def org(number: int) -> str:
    """Return the id of the numbered organisation."""
    return str(uuid.UUID(int=(0xA11CE << 96) | (4 << 76) | (8 << 60) | number))


class Router:
    """Makes events of some organisations and models, spread over [start, end).

    details: also what events may tell: provider, operation, key, parts of the tokens, time to first token.
    """

    def __init__(
        self,
        *,
        seed: int,
        start: datetime,
        end: datetime,
        orgs: int = 3,
        models: Sequence[str] = MODELS,
        error_share: float = 0.02,
        latency_factor: float = 1.0,
        details: bool = False,
    ) -> None:
        self._random = random.Random(seed)
        # Its own: with and without details a seed makes the same events.
        self._details = random.Random(f"details of {seed}") if details else None
        self._start = start
        self._span_ms = int((end - start) / timedelta(milliseconds=1))
        self._orgs = [org(number) for number in range(orgs)]
        self._models = models
        self._error_share = error_share
        self._latency_factor = latency_factor

    def event(self) -> Event:
        """Return one event of the next random organisation, model and instant."""
        rng = self._random
        occurred_at = self._start + timedelta(milliseconds=rng.randrange(self._span_ms))
        input_tokens, output_tokens = rng.randint(5, 4_000), rng.randint(1, 1_500)
        failed = rng.random() < self._error_share
        status = rng.choice(("error", "error", "timeout", "throttled")) if failed else "success"
        event: Event = {
            "eventId": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            "orgId": rng.choice(self._orgs),
            "occurredAt": occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "modelId": rng.choice(self._models),
            "actorId": f"user-{rng.randrange(500)}",
            "clientId": rng.choice(("web", "batch", "sdk-python")),
            "inputTokens": input_tokens,
            "outputTokens": output_tokens,
            "latencyMs": int(rng.lognormvariate(6.2, 0.6) * self._latency_factor),
            "status": status,
            "costEstimateCents": (input_tokens + 3 * output_tokens) * _CENTS_PER_TOKEN,
            "metadata": {"region": rng.choice(("eu-1", "us-1"))},
        }
        if status == "error":
            event["errorCode"] = rng.choice(("UPSTREAM_5XX", "CONTEXT_LENGTH", "MODEL_OVERLOADED"))
        if self._details is not None:
            event |= _details(self._details, event)
        return event

    def events(self, count: int) -> list[Event]:
        """Return the next events."""
        return [self.event() for _ in range(count)]


def _details(rng: random.Random, event: Event) -> Event:
    """Return what else an event tells. Keys differ in size, and some calls have none."""
    key = rng.choices(("key_prod", "key_batch", "key_staging", "key_notebook", None), (50, 25, 12, 8, 5))[0]
    input_tokens, output_tokens = event["inputTokens"], event["outputTokens"]
    return {
        "provider": "openai" if event["modelId"].startswith("openai/") else "self-hosted",
        "operation": "chat" if rng.random() < 0.8 else "completion",
        "apiKeyId": key,
        "cachedInputTokens": int(input_tokens * rng.choice((0, 0, 0.5, 0.8))),
        "reasoningTokens": int(output_tokens * rng.choice((0, 0.3))),
        "timeToFirstTokenMs": int(event["latencyMs"] * rng.uniform(0.05, 0.3)),
    }


@dataclass
class Sums:
    """What usage adds up."""

    invocations: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_estimate_cents: Decimal = field(default_factory=Decimal)

    def add(self, event: Event) -> None:
        """Count one event."""
        self.invocations += 1
        self.errors += event["status"] != "success"
        self.input_tokens += event["inputTokens"]
        self.output_tokens += event["outputTokens"]
        self.cost_estimate_cents += event["costEstimateCents"]


class Expected:
    """The sums of events by organisation and model, each event counted once."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.by_model: defaultdict[tuple[str, str], Sums] = defaultdict(Sums)
        self.by_org: defaultdict[str, Sums] = defaultdict(Sums)
        self.statuses: Counter[str] = Counter()
        self._seen: set[tuple[str, str]] = set()
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Count an event unless its identity was counted before."""
        identity = (event["orgId"], event["eventId"])
        if identity in self._seen:
            return
        self._seen.add(identity)
        self.by_model[event["orgId"], event["modelId"]].add(event)
        self.by_org[event["orgId"]].add(event)
        self.statuses[event["status"]] += 1

    def __len__(self) -> int:
        return len(self._seen)


def encode(event: Event | list[Event]) -> bytes:
    """Write an event, or a batch of them, as producers do; decimals stay exact JSON numbers."""
    return _encoder.encode(event)


class Publisher:
    """Publishes message bodies to the exchange over one connection; a context manager.

    A thousand messages are one transaction of AMQP, so that when `publish` returns, the queues have them: a
    quorum queue under load drops what it has not taken yet when a channel closes.
    confirm: wait for the broker's confirmation of each message instead. Slower; tells which one failed.
    """

    def __init__(
        self, rabbitmq_url: str, exchange: str = "analytics.usage", *, confirm: bool = False
    ) -> None:
        self._exchange = exchange
        self._connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
        self._channel = self._connection.channel()
        self._confirm = confirm
        if confirm:
            self._channel.confirm_delivery()
        else:
            self._channel.tx_select()

    def publish(self, bodies: Iterable[bytes], *, mandatory: bool = False) -> int:
        """Publish persistent messages with the time of now; return how many.

        mandatory: with confirm, raise pika's UnroutableError for a message that no queue takes.
        """
        count = 0
        for count, body in enumerate(bodies, start=1):
            properties = pika.BasicProperties(delivery_mode=2, timestamp=int(datetime.now(UTC).timestamp()))
            self._channel.basic_publish(self._exchange, "usage", body, properties, mandatory)
            if not self._confirm and count % 1000 == 0:
                self._channel.tx_commit()
        if not self._confirm:
            self._channel.tx_commit()
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
