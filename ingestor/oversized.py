"""Moves messages that are too large to be events to the dead-letter queue, piece by piece.

RabbitMQ lets bodies of 128 MiB through, more than this process has room for. Each piece is sent on as it
comes, over a connection of its own; what the socket does not take at once is bounded. One message is sent at
a time. Those that cannot be sent stay unacknowledged without their bodies, and go back to the queue when the
way is free.
"""

import time
from collections import deque
from functools import partial
from typing import Any

import msgspec
import structlog

from ingestor.batch import DeadLetter
from ingestor.dead_letter_publisher import properties_of
from ingestor.envelope import read_envelope
from ingestor.sessions import Sessions
from ingestor.settlement import Settlement
from shared.buckets import rfc3339
from shared.clock import Clock
from shared.metrics import IngestorMetrics
from shared.process import Backoff
from shared.rabbitmq.frames import Chunk, Delivery
from shared.rabbitmq.topology import Topology, declare
from shared.usage_event.schema import MAX_MESSAGE_BYTES, Reason

# At half of this the next piece waits for the socket, at the whole the message is cut off: the broker does
# not take it. The loop is held up meanwhile, but not for longer than this at a time.
MAX_UNSENT_BYTES = 16 * 1024 * 1024
MAX_WAIT_SECONDS = 0.5

# Between tries after the broker refused one.
MAX_PAUSE_SECONDS = 30

STUCK_AFTER_SECONDS = 60
"""A message that is not moved for longer makes the process not ready; 128 MiB may take their time."""


class _Move(msgspec.Struct, eq=False):
    """A message on its way; missing_bytes: what of its body has not come yet."""

    delivery_tag: int
    missing_bytes: int
    since: float


class OversizedMover:
    """Takes oversized messages of the consumer's channel. For the loop's thread alone."""

    def __init__(
        self,
        sessions: Sessions,
        topology: Topology,
        metrics: IngestorMetrics,
        settlement: Settlement,
        *,
        clock: Clock,
    ) -> None:
        self.fault: str | None = None
        self._topology = topology
        self._metrics = metrics
        self._settlement = settlement
        self._clock = clock
        self._log = structlog.get_logger("ingestor.oversized")
        self._backoff = Backoff(metrics.dependency_errors, max_seconds=MAX_PAUSE_SECONDS)
        self._session = sessions.make(
            "oversized messages",
            partial(self._backoff.pause_seconds, "rabbitmq"),
            on_open=self._opened,
            on_lost=self._lost,
        )
        self._sending: _Move | None = None
        self._unconfirmed: dict[int, _Move] = {}
        self._parked: deque[_Move] = deque()
        self._published = 0
        self._paused_until = 0.0

    def take(self, delivery: Delivery, body_bytes: int) -> Chunk:
        """Take a message whose body is about to come; returns what takes its pieces."""
        move = _Move(delivery.delivery_tag, body_bytes, time.monotonic())
        self._settlement.hold(move.delivery_tag)
        if self._session.channel is None or self._sending is not None or self._is_paused():
            self._parked.append(move)
            if self._session.is_closed:
                self._session.open()
            return _discard
        detail = f"the message has {body_bytes} bytes; at most {MAX_MESSAGE_BYTES} are allowed"
        envelope = read_envelope(delivery)
        first_seen = envelope.first_seen or rfc3339(self._clock())
        dead_letter = DeadLetter(envelope, b"", Reason.MESSAGE_TOO_LARGE, detail, first_seen)
        self._sending = move
        self._session.connection.begin_message(
            self._session.channel,
            self._topology.dead_letter_exchange,
            envelope.routing_key,
            properties_of(dead_letter),
            body_bytes,
        )
        return partial(self._send_piece, move)

    def abandon(self) -> None:
        """Forget all messages: the channel they came by is lost and they will come again."""
        self._parked.clear()
        self._unconfirmed.clear()
        if self._sending is not None:
            self._sending = None
            self._session.restart("the message that was being moved ended early")

    def check(self) -> None:
        """Give the next parked message back if the way is free; find out whether one has waited long."""
        if self._parked and self._sending is None and self._session.channel and not self._is_paused():
            self._settlement.give_back(self._parked.popleft().delivery_tag)
        now = time.monotonic()
        moves = [*self._parked, *self._unconfirmed.values(), *([self._sending] if self._sending else [])]
        oldest = min((move.since for move in moves), default=now)
        self.fault = None
        if now - oldest > STUCK_AFTER_SECONDS:
            self.fault = f"{len(moves)} oversized messages are not moved, one for {now - oldest:.0f} s"

    def close(self) -> None:
        """Close the connection; is_closed is true when that is done."""
        self._session.close()

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return self._session.is_closed

    def _is_paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _opened(self, channel: Any) -> None:
        declare(channel, self._topology)
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(partial(self._answered, channel))
        self._published = 0  # a channel in confirm mode counts its messages from 1

    def _send_piece(self, move: _Move, piece: bytes) -> None:
        if move is not self._sending:
            return  # cut off
        connection = self._session.connection
        connection.send_piece(self._session.channel, piece)
        move.missing_bytes -= len(piece)
        if move.missing_bytes <= 0:
            self._published += 1
            self._unconfirmed[self._published] = move
            self._sending = None
        elif (
            not connection.wait_until_sent(max_unsent_bytes=MAX_UNSENT_BYTES // 2, seconds=MAX_WAIT_SECONDS)
            and connection.unsent_bytes > MAX_UNSENT_BYTES
        ):
            self._session.restart("RabbitMQ does not take an oversized message")

    def _answered(self, channel: Any, frame: Any) -> None:
        if channel is not self._session.channel:
            return
        last = frame.method.delivery_tag
        numbers = (
            [number for number in self._unconfirmed if number <= last] if frame.method.multiple else [last]
        )
        moves = [self._unconfirmed.pop(number) for number in numbers if number in self._unconfirmed]
        if frame.method.NAME == "Basic.Ack":
            self._backoff.reset()
            for move in moves:
                self._metrics.events.labels(result="invalid").inc()
                self._metrics.dead_letters.labels(reason=Reason.MESSAGE_TOO_LARGE).inc()
                self._settlement.confirm(move.delivery_tag)
        else:
            self._paused_until = time.monotonic() + self._backoff.pause_seconds("rabbitmq")
            self._parked.extend(moves)
            self._log.warning(
                "RabbitMQ refused an oversized message, trying again", waiting=len(self._parked)
            )

    def _lost(self, reason: str) -> None:
        self._parked.extend(self._unconfirmed.values())
        self._unconfirmed.clear()
        if self._sending is not None:
            self._parked.append(self._sending)
            self._sending = None
        if self._parked:
            self._log.warning("oversized messages wait for RabbitMQ", error=reason, waiting=len(self._parked))

    def _returned(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self._session.restart(f"no queue took an oversized message: {method.reply_text}")


def _discard(_piece: bytes) -> None:
    pass
