"""Publishes dead letters with confirms, many at a time, over a connection of its own.

Its own, because a broker short of memory or disk stops reading from connections that publish: on the
consumer's connection the acknowledgements, which is what would relieve it, would stand still too.
"""

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from ingestor.batch import DeadLetter
from shared.amqp import Loop, Session, Topology, declare, parameters, persistent
from shared.metrics import IngestorMetrics
from shared.process import Backoff

# Unconfirmed at once. The bytes bound what pika copies into its output buffer.
WINDOW_MESSAGES = 1000
WINDOW_BYTES = 4 * 1024 * 1024

_DETAIL_CHARACTERS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class _Parcel:
    letter: DeadLetter
    on_confirmed: Callable[[], None]


class DeadLetterPublisher:
    """Keeps every letter until the broker has confirmed it. For the loop's thread alone.

    Delivery is at least once: a letter whose confirm was lost is published again.
    """

    def __init__(
        self, loop: Loop, url: str, topology: Topology, metrics: IngestorMetrics, *, connection_name: str
    ) -> None:
        self._topology = topology
        self._metrics = metrics
        self._log = structlog.get_logger("ingestor.dead_letters")
        self._backoff = Backoff(metrics.dependency_errors, most_seconds=5)
        self._session = Session(
            loop,
            parameters(url, connection_name=connection_name),
            pause_seconds=partial(self._backoff.pause_seconds, "rabbitmq"),
            on_open=self._opened,
            on_lost=self._lost,
        )
        self._waiting: deque[_Parcel] = deque()
        self._unconfirmed: dict[int, _Parcel] = {}
        self._unconfirmed_bytes = 0
        self._tags = itertools.count(1)

    def publish(self, letter: DeadLetter, on_confirmed: Callable[[], None]) -> None:
        """Queue a letter; on_confirmed is called once the broker has it safe."""
        self._waiting.append(_Parcel(letter, on_confirmed))
        if self._session.is_closed:
            self._session.open()
        self._send()

    def forget_waiting(self) -> None:
        """Drop the letters not sent yet: their messages will come again."""
        self._waiting.clear()

    def close(self) -> None:
        """Close the connection; is_closed tells when that is done."""
        self._session.close()

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return self._session.is_closed

    def _opened(self, channel: Any) -> None:
        declare(channel, self._topology)
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(partial(self._confirmed, channel))
        self._tags = itertools.count(1)  # a channel in confirm mode counts its messages from 1
        self._send()

    def _lost(self, reason: str) -> None:
        self._waiting.extendleft(reversed(self._unconfirmed.values()))
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0
        self._log.warning("dead letters wait for RabbitMQ", error=reason, waiting=len(self._waiting))

    def _send(self) -> None:
        channel = self._session.channel
        while (
            channel is not None
            and self._waiting
            and len(self._unconfirmed) < WINDOW_MESSAGES
            and self._unconfirmed_bytes < WINDOW_BYTES
        ):
            parcel = self._waiting.popleft()
            letter = parcel.letter
            self._unconfirmed[next(self._tags)] = parcel
            self._unconfirmed_bytes += len(letter.body)
            channel.basic_publish(
                self._topology.dead_letter_exchange,
                letter.message.delivery.routing_key,
                letter.body,
                persistent(
                    headers=headers_of(letter),
                    correlation_id=letter.message.delivery.properties.correlation_id,
                    timestamp=letter.message.delivery.properties.timestamp,
                ),
                mandatory=True,
            )

    def _confirmed(self, channel: Any, frame: Any) -> None:
        if channel is not self._session.channel:
            return
        if frame.method.NAME != "Basic.Ack":
            self._session.restart("RabbitMQ refused a dead letter (basic.nack)")
            return
        self._backoff.reset()
        last = frame.method.delivery_tag
        tags = [last]
        if frame.method.multiple:
            tags = list(itertools.takewhile(lambda tag: tag <= last, self._unconfirmed))
        for tag in tags:
            parcel = self._unconfirmed.pop(tag)
            self._unconfirmed_bytes -= len(parcel.letter.body)
            self._metrics.events.labels(result="invalid").inc()
            self._metrics.dead_letters.labels(reason=parcel.letter.reason).inc()
            parcel.on_confirmed()
        self._send()

    def _returned(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        # Its confirm will follow as if all were well; a new session declares the topology again.
        self._session.restart(f"no queue took a dead letter: {method.reply_text}")


def headers_of(letter: DeadLetter) -> dict[str, str]:
    """Return the headers of a dead letter, and the texts its message had beside them (trace ids).

    Long headers are left behind: all of them have to fit into one frame.
    """
    kept = {
        name: value
        for name, value in (letter.message.delivery.properties.headers or {}).items()
        if isinstance(name, str) and isinstance(value, str) and len(value) <= 200
    }
    return {
        **dict(itertools.islice(kept.items(), 20)),
        "x-reason": letter.reason,
        "x-detail": letter.detail[:_DETAIL_CHARACTERS],
        "x-first-seen": letter.first_seen,
    }
