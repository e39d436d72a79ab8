"""Batches: gathering messages until there are enough, and judging their events. No I/O here."""

import traceback
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from ingestor.envelope import Envelope, read_envelope
from shared.buckets import rfc3339
from shared.logs import safe_id
from shared.rabbitmq.frames import Delivery
from shared.usage_event.decode import Event, decode_event, split_message
from shared.usage_event.schema import InvalidEvent

# A batch of large messages closes early, so that two or three batches in flight stay small in memory.
MAX_BATCH_BYTES = 4 * 1024 * 1024


class Message(msgspec.Struct, eq=False):
    """A delivered message, its body cut into the JSON texts of its events; not cut if it cannot be."""

    delivery: Delivery
    elements: list[bytes]
    size_bytes: int
    fault: InvalidEvent | None = None

    @classmethod
    def of(cls, delivery: Delivery) -> "Message":
        """Cut a delivery's body into events; the whole is not kept beside the pieces."""
        body, delivery.body = delivery.body, b""
        size_bytes = len(body) + len(delivery.properties)
        try:
            return cls(delivery, split_message(body), size_bytes)
        except InvalidEvent as fault:
            return cls(delivery, [body], size_bytes, fault)


class Row(msgspec.Struct, eq=False):
    """An event to store, once for all its copies in the batch.

    raw: the text it had in its message. copies: those that came after it with the same identity.
    """

    event: Event
    message: Message
    raw: bytes
    copies: list["Row"] | None = None

    def add_copy(self, copy: "Row") -> None:
        """Take in another event with this identity."""
        self.copies = self.copies or []
        self.copies.append(copy)

    @property
    def sources(self) -> list["Row"]:
        """This event and its copies, in the order they came."""
        return [self, *(self.copies or ())]

    def count_differing(self, content_digest: int) -> int:
        """Count which of them differ from the event that is stored under their identity."""
        return sum(source.event.content_digest != content_digest for source in self.sources)


class DeadLetter(msgspec.Struct, frozen=True, eq=False):
    """An event that cannot be stored, with its reason: a short word group and a sentence.

    It holds nothing of its message but the envelope and its own text.
    """

    envelope: Envelope
    body: bytes
    reason: str
    detail: str
    first_seen: str


@dataclass(slots=True, eq=False)
class Batch:
    """Messages that are committed and acknowledged together, in the order of their delivery tags.

    Their events are judged as they come in: rows by identity, the first delivered wins, and those that
    can never be rows. received_at: when the first message reached this process. abandoned: the channel
    the messages came by is gone, so they will come again; whoever holds the batch may drop it.
    correlation_id: the first message's, where it has a safe one, else a new one; it names the batch in the
    logs from delivery to commit to rollup. sent_at: the first message's timestamp, as its producer set it.
    """

    received_at: datetime
    messages: list[Message] = field(default_factory=list)
    events: int = 0
    size_bytes: int = 0
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    abandoned: bool = False
    correlation_id: str = ""
    sent_at: int | None = None

    def has_room_for(self, message: Message, max_events: int) -> bool:
        """Whether the message fits. A message is one commit and one ack, so it is never split: one
        with more events than max_events makes a batch of its own.
        """
        return not self.messages or (
            self.events + len(message.elements) <= max_events
            and self.size_bytes + message.size_bytes <= MAX_BATCH_BYTES
        )

    def is_full(self, max_events: int) -> bool:
        """Whether nothing more fits."""
        return self.events >= max_events or self.size_bytes >= MAX_BATCH_BYTES

    def add(self, message: Message) -> None:
        """Take a message in and judge its events."""
        if not self.messages:
            envelope = read_envelope(message.delivery)
            self.correlation_id = safe_id(envelope.correlation_id)
            self.sent_at = envelope.sent_at
        self.messages.append(message)
        self.events += len(message.elements)
        self.size_bytes += message.size_bytes
        if message.fault is not None:
            self._refuse(message, message.elements[0], message.fault)
            return
        for raw in message.elements:
            try:
                event = decode_event(raw, self.received_at)
            except InvalidEvent as fault:
                self._refuse(message, raw, fault)
            except Exception:  # noqa: BLE001  a bug in our checks must not stop the events around it
                self.dead_letters.append(
                    dead_letter(self, message, raw, "internal-error", traceback.format_exc())
                )
            else:
                row = Row(event, message, raw)
                first = self.rows.setdefault(event.key, row)
                if first is not row:
                    first.add_copy(row)

    def _refuse(self, message: Message, raw: bytes, fault: InvalidEvent) -> None:
        self.dead_letters.append(dead_letter(self, message, raw, fault.reason, fault.detail))


def dead_letter(batch: Batch, message: Message, raw: bytes, reason: str, detail: str) -> DeadLetter:
    """Make a dead letter; one that was replayed keeps the time it was first seen."""
    envelope = read_envelope(message.delivery)
    first_seen = envelope.first_seen or rfc3339(batch.received_at)
    return DeadLetter(envelope, bytes(raw), reason, detail, first_seen)


class Prefetch:
    """How many messages to ask the broker for, by their size so far.

    Enough for target_events, but not more than target_bytes. The first guess is low: nothing is
    known yet, and a message may be 1 MiB.
    """

    FIRST_MESSAGES = 200
    MAX_MESSAGES = 65_535  # the protocol's

    def __init__(self, target_events: int, target_bytes: int) -> None:
        self._target_events = target_events
        self._target_bytes = target_bytes
        self._message_bytes = 0.0
        self._message_events = 0.0

    def observe(self, messages: int, events: int, size_bytes: int) -> None:
        """Learn from messages that came: the newest count as much as all before them."""
        weight = 0.5 if self._message_bytes else 1.0
        self._message_bytes += (size_bytes / messages - self._message_bytes) * weight
        self._message_events += (events / messages - self._message_events) * weight

    @property
    def messages(self) -> int:
        """The number to ask for."""
        if not self._message_bytes:
            return self.FIRST_MESSAGES
        by_events = self._target_events / self._message_events
        by_bytes = self._target_bytes / self._message_bytes
        return int(min(max(min(by_events, by_bytes), 1), self.MAX_MESSAGES))
