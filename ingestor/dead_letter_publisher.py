"""Publishes dead letters with confirms, many at a time, over a connection of its own.

The reason of each was chosen before: in shared/usage_event/diagnose.py for the faults of an event, in
ingestor/writer.py for what PostgreSQL refuses.

A connection of its own, because a broker short of memory or disk stops reading from connections that publish:
on the consumer's connection the acknowledgements, which is what would relieve it, would stand still too.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import structlog

from ingestor.batch import DeadLetter
from ingestor.sessions import Sessions
from shared.metrics import IngestorMetrics
from shared.process import Backoff
from shared.rabbitmq.properties import persistent
from shared.rabbitmq.topology import Topology, declare

# Unconfirmed at once. The bytes bound what pika copies into its output buffer.
MAX_WINDOW_MESSAGES = 1000
MAX_WINDOW_BYTES = 4 * 1024 * 1024

# What a dead letter takes beside its body while it waits, roughly.
_METADATA_BYTES = 2_000

STUCK_AFTER_SECONDS = 10
"""A dead letter that is unconfirmed for longer makes the process not ready."""

MAX_DETAIL_BYTES = 1_000


class _Publication(msgspec.Struct, eq=False):
    """A dead letter that is not confirmed. abandoned: its message will come again, it need not be resent."""

    dead_letter: DeadLetter
    on_confirmed: Callable[[], None]
    since: float
    abandoned: bool = False

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return len(self.dead_letter.body) + _METADATA_BYTES


class DeadLetterPublisher:
    """Keeps every dead letter until the broker has confirmed it. For the loop's thread alone.

    fault: what keeps dead letters from being confirmed, where one has waited long. waiting_bytes: what those
    that are not confirmed take in memory, roughly.

    Delivery is at least once: a dead letter whose confirm was lost is published again. One that the broker
    refuses, or that costs the connection, goes behind the others, so that it does not stop them.
    """

    def __init__(
        self,
        sessions: Sessions,
        topology: Topology,
        metrics: IngestorMetrics,
    ) -> None:
        self.waiting_bytes = 0
        self.fault: str | None = None
        self._loop = sessions.loop
        self._topology = topology
        self._metrics = metrics
        self._log = structlog.get_logger("ingestor.dead_letters")
        self._backoff = Backoff(metrics.dependency_errors, max_seconds=5)
        self._session = sessions.make(
            "dead letters",
            partial(self._backoff.pause_seconds, "rabbitmq"),
            on_open=self._opened,
            on_lost=self._lost,
        )
        self._waiting: deque[_Publication] = deque()
        self._refused: list[_Publication] = []
        self._unconfirmed: dict[int, _Publication] = {}
        self._unconfirmed_bytes = 0
        self._window = MAX_WINDOW_MESSAGES
        self._tags = itertools.count(1)
        self._obstacle = "no answer from RabbitMQ"

    def publish(self, dead_letter: DeadLetter, on_confirmed: Callable[[], None]) -> None:
        """Queue a dead letter; on_confirmed is called once the broker has it safe."""
        publication = _Publication(dead_letter, on_confirmed, time.monotonic())
        self.waiting_bytes += publication.size_bytes
        self._waiting.append(publication)
        if self._session.is_closed:
            self._session.open()
        self._send()

    def abandon(self) -> None:
        """Drop what is not sent yet, and resend nothing: the messages will come again."""
        for publication in self._unconfirmed.values():
            publication.abandoned = True
        self._waiting.clear()
        self._refused.clear()
        self.waiting_bytes = sum(each.size_bytes for each in self._publications())

    @property
    def unconfirmed(self) -> int:
        """How many dead letters are not confirmed."""
        return len(self._waiting) + len(self._refused) + len(self._unconfirmed)

    def check(self) -> None:
        """Find out whether a dead letter has waited long; sets the fault."""
        now = time.monotonic()
        oldest = min((each.since for each in self._publications()), default=now)
        self.fault = None
        if now - oldest > STUCK_AFTER_SECONDS:
            self.fault = (
                f"{self.unconfirmed} dead letters are unconfirmed, the oldest for {now - oldest:.0f} s: "
                f"{self._obstacle}"
            )
        self._metrics.dead_letters_unconfirmed.set(self.unconfirmed)

    def close(self) -> None:
        """Close the connection; is_closed is true when that is done."""
        self._session.close()

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return self._session.is_closed

    def _publications(self) -> Iterator[_Publication]:
        return itertools.chain(self._unconfirmed.values(), self._refused, self._waiting)

    def _opened(self, channel: Any) -> None:
        declare(channel, self._topology)
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(partial(self._answered, channel))
        self._tags = itertools.count(1)  # a channel in confirm mode counts its messages from 1
        self._send()

    def _lost(self, reason: str) -> None:
        again = [each for each in self._unconfirmed.values() if not each.abandoned]
        self._waiting.extend(again)
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0
        self.waiting_bytes = sum(each.size_bytes for each in self._publications())
        self._window = 1  # so that one which costs the connection is alone when it does so again
        self._obstacle = reason
        self._log.warning("dead letters wait for RabbitMQ", error=reason, waiting=self.unconfirmed)

    def _send(self) -> None:
        channel = self._session.channel
        while (
            channel is not None
            and self._waiting
            and len(self._unconfirmed) < self._window
            and self._unconfirmed_bytes < MAX_WINDOW_BYTES
        ):
            publication = self._waiting.popleft()
            dead_letter = publication.dead_letter
            self._unconfirmed[next(self._tags)] = publication
            self._unconfirmed_bytes += len(dead_letter.body)
            channel.basic_publish(
                self._topology.dead_letter_exchange,
                dead_letter.envelope.routing_key,
                dead_letter.body,
                properties_of(dead_letter),
                mandatory=True,
            )

    def _answered(self, channel: Any, frame: Any) -> None:
        if channel is not self._session.channel:
            return
        last = frame.method.delivery_tag
        tags = [last]
        if frame.method.multiple:
            tags = list(itertools.takewhile(lambda tag: tag <= last, self._unconfirmed))
        publications = [self._unconfirmed.pop(tag) for tag in tags]
        self._unconfirmed_bytes -= sum(len(each.dead_letter.body) for each in publications)
        if frame.method.NAME == "Basic.Ack":
            self._confirm(publications)
        else:
            self._refuse(publications)
        self._send()

    def _confirm(self, publications: list[_Publication]) -> None:
        self._backoff.reset()
        self._window = min(2 * self._window, MAX_WINDOW_MESSAGES)
        for publication in publications:
            self.waiting_bytes -= publication.size_bytes
            self._metrics.events.labels(result="invalid").inc()
            self._metrics.dead_letters.labels(reason=publication.dead_letter.reason).inc()
            if not publication.abandoned:
                publication.on_confirmed()

    def _refuse(self, publications: list[_Publication]) -> None:
        """Try again later what the broker did not take; its queue may be full."""
        self.waiting_bytes -= sum(each.size_bytes for each in publications if each.abandoned)
        publications = [each for each in publications if not each.abandoned]
        if not self._refused and publications:
            pause_seconds = self._backoff.pause_seconds("rabbitmq")
            self._loop.call_later(pause_seconds, self._resend_refused)
            self._obstacle = "RabbitMQ refused them (basic.nack); is the dead-letter queue full?"
            self._log.warning("RabbitMQ refused dead letters, trying again", waiting=self.unconfirmed)
        self._refused += publications
        self._window = 1

    def _resend_refused(self) -> None:
        self._waiting.extend(self._refused)
        self._refused.clear()
        self._send()

    def _returned(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        # Its confirm will follow as if all were well; a new session declares the topology again.
        self._session.restart(f"no queue took a dead letter: {method.reply_text}")


def properties_of(dead_letter: DeadLetter) -> Any:
    """Return the properties of a dead letter: why it is one, and what its message had beside its body."""
    envelope = dead_letter.envelope
    note = f" (left out: {', '.join(envelope.left_out)})" if envelope.left_out else ""
    headers = {
        **envelope.headers,
        "x-reason": dead_letter.reason,
        "x-detail": _cut(dead_letter.detail, MAX_DETAIL_BYTES - len(note)) + note,
        "x-first-seen": dead_letter.first_seen,
    }
    return persistent(headers=headers, texts=envelope.texts, timestamp=envelope.sent_at)


def _cut(text: str, max_bytes: int) -> str:
    """Return as much of a text as fits; what has no UTF-8 is escaped."""
    return text.encode("utf-8", "backslashreplace")[:max_bytes].decode("utf-8", "ignore")
