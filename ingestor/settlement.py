"""Settles batches that were written: dead letters are published, then messages are acknowledged.

Batches may be written in any order; what may be acknowledged when is decided in ingestor/ack_order.py.
"""

import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

import structlog

from ingestor.ack_order import Ack, AckOrder
from ingestor.batch import Batch
from ingestor.dead_letter_publisher import DeadLetterPublisher
from ingestor.store import Outcome
from shared.clock import Clock
from shared.metrics import IngestorMetrics

# A batch whose dead letters are not confirmed by then is acknowledged without their messages.
SLOW_CONFIRM_SECONDS = 2.0


class Settlement:
    """What is written, confirmed and acknowledged on one channel after another.

    For the loop's thread alone.
    """

    def __init__(self, dead_letters: DeadLetterPublisher, metrics: IngestorMetrics, clock: Clock) -> None:
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._clock = clock
        self._log = structlog.get_logger("ingestor.settlement")
        self._channel: Any = None
        self._order = AckOrder()
        self._writing: dict[int, Batch] = {}  # by the last delivery tag
        self._writing_bytes = 0

    def begin(self, channel: Any) -> None:
        """Begin with a new channel, which has new delivery tags."""
        self._channel = channel
        self._order = AckOrder()
        self._writing = {}
        self._writing_bytes = 0

    def abandon(self) -> None:
        """Give up what is not acknowledged: the channel is lost and it will come again."""
        for batch in self._writing.values():
            batch.abandoned = True
        self._dead_letters.abandon()
        self.begin(None)

    def add(self, batch: Batch) -> None:
        """Take in a batch that goes to the writers."""
        tags = [message.delivery.delivery_tag for message in batch.messages]
        self._order.add(tags)
        self._writing[tags[-1]] = batch
        self._writing_bytes += batch.size_bytes

    def written(self, batch: Batch, outcome: Outcome) -> None:
        """Settle a batch that is written: publish its dead letters, acknowledge what can be."""
        if batch.abandoned:
            return  # committed, but its delivery tags are gone; what comes again are duplicates
        last_tag = batch.messages[-1].delivery.delivery_tag
        del self._writing[last_tag]
        self._writing_bytes -= batch.size_bytes
        held = Counter(dead_letter.envelope.delivery_tag for dead_letter in outcome.dead_letters)
        self._send(self._order.commit(last_tag, held, time.monotonic()))
        for dead_letter in outcome.dead_letters:
            on_confirmed = partial(self._confirmed, self._order, dead_letter.envelope.delivery_tag)
            self._dead_letters.publish(dead_letter, on_confirmed)
        self._metrics.batch_seconds.observe((self._clock() - batch.received_at).total_seconds())
        self._log_batch(batch, outcome)

    def hold(self, delivery_tag: int) -> None:
        """Take in a message, behind all others so far, that waits for one dead letter."""
        self._order.add([delivery_tag])
        self._send(self._order.commit(delivery_tag, {delivery_tag: 1}, time.monotonic()))

    def confirm(self, delivery_tag: int) -> None:
        """Note that one dead letter of a message is confirmed."""
        self._send(self._order.confirm(delivery_tag))

    def give_back(self, delivery_tag: int) -> None:
        """Return a message that waits for a dead letter to its queue."""
        self._channel.basic_nack(delivery_tag, requeue=True)
        self._send(self._order.give_back(delivery_tag))

    def pass_slow(self) -> None:
        """Acknowledge past the messages whose dead letters take long to confirm."""
        acks = self._order.pass_slow(time.monotonic() - SLOW_CONFIRM_SECONDS)
        if acks:
            self._log.warning("dead letters are slow to confirm", held=self._order.held)
            self._send(acks)

    @property
    def writing(self) -> int:
        """How many batches the writers have."""
        return len(self._writing)

    @property
    def size_bytes(self) -> int:
        """What is not settled takes in memory, roughly."""
        return self._writing_bytes + self._dead_letters.waiting_bytes

    @property
    def events_writing(self) -> int:
        """Events that are not committed yet."""
        return sum(batch.events for batch in self._writing.values())

    @property
    def held(self) -> int:
        """How many messages wait for dead letters to be confirmed."""
        return self._order.held

    @property
    def is_done(self) -> bool:
        """Whether all that was taken in is acknowledged."""
        return self._order.is_empty

    def _confirmed(self, order: AckOrder, delivery_tag: int) -> None:
        if order is self._order:
            self.confirm(delivery_tag)

    def _send(self, acks: Iterable[Ack]) -> None:
        for tag, up_to in acks:
            self._channel.basic_ack(tag, multiple=up_to)

    def _log_batch(self, batch: Batch, outcome: Outcome) -> None:
        self._log.info(
            "batch committed",
            correlation_id=batch.correlation_id,
            batch_id=outcome.batch_ids[0] if len(outcome.batch_ids) == 1 else outcome.batch_ids,
            messages=len(batch.messages),
            received=outcome.received,
            inserted=outcome.inserted,
            duplicates=outcome.duplicates,
            content_conflicts=outcome.content_conflicts,
            late=outcome.late,
            invalid=len(outcome.dead_letters),
            commit_seconds=round(outcome.commit_seconds, 4),
            seconds=round((self._clock() - batch.received_at).total_seconds(), 4),
        )
