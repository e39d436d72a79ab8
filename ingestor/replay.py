"""Puts dead letters back into the queue of events: `python -m ingestor replay-dead-letters`.

Each is passed on piece by piece and acknowledged after the broker confirmed its copy: none is lost, and none
has to be in memory. One that is replayed twice because this command was cut off is harmless through dedupe.
Events that are still invalid come back as new dead letters; the run ends with those that were there when it
began.
"""

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from ingestor.envelope import Envelope, read_envelope
from ingestor.sessions import Sessions
from shared.errors import BrokerUnavailable
from shared.rabbitmq.frames import Chunk, Delivery, Receiver
from shared.rabbitmq.properties import persistent
from shared.rabbitmq.session import Loop, Session
from shared.rabbitmq.topology import Topology

_PROGRESS_SECONDS = 1.0
_CLOSE_SECONDS = 3.0

# How often to look whether the queue is empty, and how long nothing must have come until that is believed.
_LOOK_SECONDS = 0.5
_IDLE_SECONDS = 2.0

# What the broker sends ahead. Those that stay take a place each: more is asked for when half of it is theirs.
_PREFETCH = 1_000
_MAX_PREFETCH = 65_535

# A copy that is not sent yet holds the next one up; one that is not sent for this long ends the run.
_MAX_UNSENT_BYTES = 4 * 1024 * 1024
_MAX_WAIT_SECONDS = 20.0


@dataclass
class Summary:
    """How many dead letters were put back, and how many stayed, by reason."""

    replayed: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """Write it for a person."""
        lines = [f"{sum(self.replayed.values())} replayed, {sum(self.kept.values())} kept"]
        lines += [f"  replayed {count:>8}  {reason}" for reason, count in self.replayed.most_common()]
        lines += [f"  kept     {count:>8}  {reason}" for reason, count in self.kept.most_common()]
        return "\n".join(lines)


def replay(
    url: str,
    topology: Topology,
    *,
    limit: int | None = None,
    reason: str | None = None,
    dry_run: bool = False,
    read_frames: bool = True,
) -> Summary:
    """Move dead letters back to the exchange, oldest first.

    limit: at most so many; reason: only those with this reason. Others stay, and dry_run leaves all.
    read_frames: see Session. Raises BrokerUnavailable; what was not replayed by then is still in the queue.
    """
    run = _Run(topology, limit=limit, reason=reason, dry_run=dry_run)
    return run.run(url, read_frames=read_frames)


class _Copy(msgspec.Struct, eq=False):
    """A dead letter on its way back; missing_bytes: what of its body has not come yet."""

    delivery_tag: int
    reason: str
    missing_bytes: int


class _Run:
    """One run, over a connection that consumes (source) and one that publishes (target)."""

    def __init__(self, topology: Topology, *, limit: int | None, reason: str | None, dry_run: bool) -> None:
        self._topology = topology
        self._limit = limit
        self._reason = reason
        self._dry_run = dry_run
        self._summary = Summary()
        self._loop = Loop()
        self._failure: BaseException | None = None
        self._source: Session
        self._target: Session
        self._waiting: int | None = None
        self._asked = 0
        self._seen = 0
        self._chosen = 0
        self._published = 0
        self._copies: dict[int, _Copy] = {}  # not confirmed, in the order of publishing
        self._active_at = self._shown_at = time.monotonic()

    def run(self, url: str, *, read_frames: bool) -> Summary:
        """Move what is to be moved. Raises BrokerUnavailable."""
        sessions = Sessions(self._loop, url, "ingestor replay-dead-letters", self._end, read_frames)
        self._source, self._target = (
            sessions.make(
                name,
                lambda: _CLOSE_SECONDS,
                on_open=on_open,
                on_lost=lambda reason: self._end(BrokerUnavailable(reason)),
            )
            for name, on_open in (("source", self._source_opened), ("target", self._target_opened))
        )
        self._source.open()
        self._target.open()
        self._loop.start()
        self._source.close()
        self._target.close()
        self._wait_closed(time.monotonic() + _CLOSE_SECONDS)
        self._loop.start()
        self._loop.close()
        if self._failure is not None:
            raise self._failure
        return self._summary

    def _end(self, error: BaseException | None = None) -> None:
        self._failure = self._failure or error
        self._loop.stop()

    def _wait_closed(self, deadline: float) -> None:
        if (self._source.is_closed and self._target.is_closed) or time.monotonic() > deadline:
            self._loop.stop()
        else:
            self._loop.call_later(0.02, partial(self._wait_closed, deadline))

    # The beginning

    def _source_opened(self, channel: Any) -> None:
        channel.queue_declare(self._topology.dead_letter_queue, passive=True, callback=self._counted)

    def _counted(self, frame: Any) -> None:
        self._waiting = frame.method.message_count
        self._begin()

    def _target_opened(self, channel: Any) -> None:
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._answered)
        self._begin()

    def _begin(self) -> None:
        if self._waiting is not None and self._target.channel is not None:
            self._end_if_done()
            self._ask()
            self._loop.call_later(_LOOK_SECONDS, self._look)

    def _ask(self) -> None:
        """Ask for more dead letters where those that stay take half of what was asked for."""
        staying = self._seen - self._summary.replayed.total() if not self._dry_run else self._seen
        wanted = _PREFETCH + 2 * staying
        if wanted > self._asked:
            more = min(max(wanted - self._asked, _PREFETCH), _MAX_PREFETCH)
            self._asked += more
            receiver = Receiver(-1, _never, self._delivered)  # each comes in pieces, whatever its size
            self._source.consume(self._topology.dead_letter_queue, more, receiver, _nothing)

    # Each dead letter's way

    def _delivered(self, delivery: Delivery, body_bytes: int) -> Chunk:
        """Take a dead letter whose body is about to come; returns what takes its pieces."""
        self._active_at = time.monotonic()
        if self._is_over:
            return self._discard
        self._seen += 1
        self._show_progress()
        envelope = read_envelope(delivery)
        if self._reason is not None and envelope.reason != self._reason:
            self._summary.kept[envelope.reason] += 1  # unacknowledged, it stays when the channel closes
            return self._leave()
        self._chosen += 1
        if self._dry_run:
            self._summary.replayed[envelope.reason] += 1
            return self._leave()
        self._published += 1
        copy = _Copy(delivery.delivery_tag, envelope.reason, body_bytes)
        self._copies[self._published] = copy
        self._target.connection.begin_message(
            self._target.channel,
            self._topology.exchange,
            envelope.routing_key,
            _properties(envelope),
            body_bytes,
        )
        return partial(self._send_piece, copy)

    def _leave(self) -> Chunk:
        """Leave a dead letter in its queue."""
        self._ask()
        self._end_if_done()
        return self._discard

    def _discard(self, _piece: bytes) -> None:
        self._active_at = time.monotonic()

    def _send_piece(self, copy: _Copy, piece: bytes) -> None:
        self._active_at = time.monotonic()
        connection = self._target.connection
        connection.send_piece(self._target.channel, piece)
        copy.missing_bytes -= len(piece)
        if not connection.wait_until_sent(max_unsent_bytes=_MAX_UNSENT_BYTES, seconds=_MAX_WAIT_SECONDS):
            self._end(BrokerUnavailable("RabbitMQ takes no messages; is it short of memory or disk?"))

    def _answered(self, frame: Any) -> None:
        last = frame.method.delivery_tag
        first = min(self._copies, default=last) if frame.method.multiple else last
        if frame.method.NAME != "Basic.Ack":
            self._end(BrokerUnavailable("RabbitMQ refused a message (basic.nack); is the queue full?"))
            return
        for number in [number for number in self._copies if first <= number <= last]:
            copy = self._copies.pop(number)
            self._summary.replayed[copy.reason] += 1
            self._source.channel.basic_ack(copy.delivery_tag)
        self._end_if_done()

    def _returned(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self._end(BrokerUnavailable(f"no queue took a message: {method.reply_text}"))

    # The end

    @property
    def _is_over(self) -> bool:
        if self._limit is not None and self._chosen >= self._limit:
            return True
        return self._seen >= (self._waiting or 0)

    def _end_if_done(self) -> None:
        if self._is_over and not self._copies:
            self._end()

    def _look(self) -> None:
        """Find out whether there is nothing more to come, because somebody else took some."""
        channel = self._source.channel
        if channel is not None:  # not closing yet
            channel.queue_declare(self._topology.dead_letter_queue, passive=True, callback=self._looked)
            self._loop.call_later(_LOOK_SECONDS, self._look)

    def _looked(self, frame: Any) -> None:
        idle = time.monotonic() - self._active_at > _IDLE_SECONDS
        if idle and frame.method.message_count == 0 and not self._copies:
            self._end()

    def _show_progress(self) -> None:
        if time.monotonic() - self._shown_at > _PROGRESS_SECONDS:
            self._shown_at = time.monotonic()
            sys.stderr.write(f"{self._seen} of {self._waiting} dead letters read\n")


def _properties(envelope: Envelope) -> Any:
    headers = dict(envelope.headers)
    if envelope.first_seen is not None:
        headers["x-first-seen"] = envelope.first_seen
    return persistent(headers=headers, texts=envelope.texts, timestamp=envelope.sent_at)


def _never(_delivery: Delivery) -> None:
    """Take a message that comes whole: none does."""


def _nothing() -> None:
    """Do nothing more when the broker agreed to send."""
