"""What the database, the queues and the API show of a run, compared with what was published."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pika
import psycopg2

from deploy.local.api import Api, wait_until
from deploy.local.traffic import Event, Expected, Sums

_SUMS = (
    "SELECT org_id::text, model_id, sum(invocations), sum(errors), sum(input_tokens), sum(output_tokens),"
    " sum(cost_estimate_cents) FROM {table} GROUP BY 1, 2"
)
_ROWS = (
    "(SELECT *, 1 AS invocations, (status <> 'success')::int AS errors FROM analytics.usage_events) AS rows"
)


@dataclass(frozen=True)
class DeadLetter:
    """A message of the dead-letter queue."""

    reason: str
    detail: str
    first_seen: str
    body: bytes


class Observer:
    """Reads the database as its owner and the dead-letter queue without taking anything from it."""

    def __init__(self, owner_url: str, rabbitmq_url: str, queue: str, dead_letter_queue: str) -> None:
        self._connection = psycopg2.connect(owner_url)
        self._connection.autocommit = True
        self._rabbitmq_url = rabbitmq_url
        self._queue = queue
        self._dead_letter_queue = dead_letter_queue

    def close(self) -> None:
        """Close the connection to the database."""
        self._connection.close()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query."""
        with self._connection.cursor() as cur:
            cur.execute(sql)
            return list(cur.fetchall())

    def ingestion(self) -> dict[str, int]:
        """Return the sums of the batch records."""
        names = ("received", "inserted", "dedupe_conflicts", "content_conflicts")
        [sums] = self.rows(
            "SELECT "
            + ", ".join(f"coalesce(sum({name}), 0)" for name in names)
            + " FROM analytics.ingestion_batches"
        )
        return dict(zip(names, sums, strict=True))

    def wait_until_settled(
        self, *, received: int | None = None, stored: int | None = None, seconds: float = 90
    ) -> None:
        """Wait until so many events came in or are stored, the queue is empty and all is rolled up."""

        def settled() -> bool:
            sums = self.ingestion()
            enough = (received is None or sums["received"] >= received) and (
                stored is None or sums["inserted"] >= stored
            )
            return enough and self._pending() == 0

        wait_until(
            settled,
            seconds=seconds,
            what=lambda: f"received={received} stored={stored}; last seen {self.ingestion()}",
        )
        wait_until(lambda: self._depth(self._queue) == 0, seconds=seconds, what="an empty queue")

    def assert_equal(self, expected: Expected) -> None:
        """I1 and I2: rows, hourly and daily rollups equal what was published, by org and model."""
        wanted = dict(expected.by_model)
        for table in (_ROWS, "analytics.hourly_rollups", "analytics.daily_rollups"):
            assert self._sums(table) == wanted, f"{table} differs from what was published"

    def assert_hours_equal(self, events: Iterable[Event]) -> None:
        """Each event is counted in the UTC hour it occurred in."""
        hours: defaultdict[datetime, int] = defaultdict(int)
        for event in events:
            occurred_at = datetime.fromisoformat(event["occurredAt"])
            hours[occurred_at.replace(minute=0, second=0, microsecond=0)] += 1
        counted = self.rows("SELECT bucket_start, sum(invocations) FROM analytics.hourly_rollups GROUP BY 1")
        assert {hour.astimezone(UTC): int(count) for hour, count in counted} == dict(hours)

    def assert_api_equal(self, api: Api, expected: Expected, start: datetime, end: datetime) -> None:
        """The usage API's totals and points equal what was published, by hour and by day."""
        for org_id, sums in expected.by_org.items():
            for granularity in ("hour", "day"):
                answer = api.usage(org_id, start, end, granularity=granularity)
                assert _from_api(answer["totals"]) == sums
                by_model: defaultdict[str, Sums] = defaultdict(Sums)
                for point in answer["series"]:
                    _add(by_model[point["modelId"]], _from_api(point))
                wanted = {model: each for (org, model), each in expected.by_model.items() if org == org_id}
                assert by_model == wanted

    def dead_letter_count(self) -> int:
        """Return how many messages the dead-letter queue holds."""
        return self._depth(self._dead_letter_queue)

    def queued(self) -> int:
        """Return how many messages the queue of events holds, those in delivery left out."""
        return self._depth(self._queue)

    def dead_letters(self) -> list[DeadLetter]:
        """Return the messages of the dead-letter queue and leave them there."""
        dead_letters: list[DeadLetter] = []
        connection = pika.BlockingConnection(pika.URLParameters(self._rabbitmq_url))
        try:
            channel = connection.channel()
            while True:
                method, properties, body = channel.basic_get(self._dead_letter_queue)
                if method is None:
                    return dead_letters
                headers = properties.headers or {}
                dead_letters.append(
                    DeadLetter(
                        headers.get("x-reason", ""),
                        headers.get("x-detail", ""),
                        str(headers.get("x-first-seen", "")),
                        body,
                    )
                )
        finally:
            connection.close()  # what was not acknowledged goes back

    def _depth(self, queue: str) -> int:
        connection = pika.BlockingConnection(pika.URLParameters(self._rabbitmq_url))
        try:
            declared = connection.channel().queue_declare(queue, passive=True)
            depth: int = declared.method.message_count
            return depth
        finally:
            connection.close()

    def _pending(self) -> int:
        [(count,)] = self.rows("SELECT count(*) FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL")
        return int(count)

    def _sums(self, table: str) -> dict[tuple[str, str], Sums]:
        return {
            (org_id, model_id): Sums(int(invocations), int(errors), int(tokens_in), int(tokens_out), cost)
            for org_id, model_id, invocations, errors, tokens_in, tokens_out, cost in self.rows(
                _SUMS.format(table=table)
            )
        }


def _from_api(point: dict[str, Any]) -> Sums:
    return Sums(
        point["invocations"],
        point["errors"],
        point["inputTokens"],
        point["outputTokens"],
        Decimal(point["costEstimateCents"]),
    )


def _add(sums: Sums, more: Sums) -> None:
    sums.invocations += more.invocations
    sums.errors += more.errors
    sums.input_tokens += more.input_tokens
    sums.output_tokens += more.output_tokens
    sums.cost_estimate_cents += more.cost_estimate_cents
