"""Takes messages from the queue, hands batches to the writers, and acknowledges what is committed.

One thread runs the loop and owns the connection, so heartbeats go on while a commit is slow. A
message is acknowledged once all its valid events are committed and all its invalid ones are confirmed
as dead letters. Batches may commit in any order and are acknowledged in that of their delivery tags, so
one ack tells of a whole batch. A lost channel takes its delivery tags with it: what was in hand comes again.
"""

import math
import time
from collections import Counter, deque
from datetime import timedelta
from functools import partial
from typing import Any

import structlog

from ingestor.batch import Batch, Message, Prefetch
from ingestor.dead_letters import DeadLetterPublisher
from ingestor.store import Outcome
from ingestor.writer import WRITERS, Batches
from shared.amqp import Delivery, Loop, Session, Topology, declare, parameters
from shared.clock import Clock, utc_now
from shared.metrics import IngestorMetrics
from shared.process import Backoff

# Message bodies in hand: what is asked for, and what is never passed.
HAND_TARGET_BYTES = 12 * 1024 * 1024
HAND_MOST_BYTES = 24 * 1024 * 1024

# A batch whose dead letters are not confirmed by then is acknowledged without their messages.
SLOW_CONFIRM_SECONDS = 2.0


class _Settlement:
    """A batch on its way from the writers to its acknowledgement.

    committed_at: a monotonic time in seconds, infinite while the writers have it. held: by delivery tag, how
    many dead letters of the message are not confirmed yet. one_by_one: the other messages were
    acknowledged each for itself, and so will be the held ones.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.size_bytes = batch.size_bytes
        self.committed_at = math.inf
        self.held: Counter[int] = Counter()
        self.one_by_one = False

    def commit(self, outcome: Outcome) -> None:
        """Note that the writers are done with it, and which messages wait for their dead letters."""
        self.committed_at = time.monotonic()
        self.held.update(letter.message.delivery.delivery_tag for letter in outcome.dead_letters)

    @property
    def is_committed(self) -> bool:
        """Whether the writers are done with it."""
        return self.committed_at < math.inf

    @property
    def waits_for_nothing(self) -> bool:
        """Whether all of it is committed or a confirmed dead letter."""
        return self.is_committed and not self.held

    @property
    def is_slow(self) -> bool:
        """Whether its dead letters take long to confirm."""
        return bool(self.held) and time.monotonic() - self.committed_at > SLOW_CONFIRM_SECONDS


class Consumer:
    """Consumes until drained. For the loop's thread alone."""

    def __init__(
        self,
        loop: Loop,
        url: str,
        topology: Topology,
        metrics: IngestorMetrics,
        *,
        batches: Batches,
        dead_letters: DeadLetterPublisher,
        batch_size: int,
        batch_timeout: timedelta,
        connection_name: str,
        clock: Clock = utc_now,
    ) -> None:
        self.fault: str | None = "not connected yet"
        self._loop = loop
        self._topology = topology
        self._batches = batches
        self._metrics = metrics
        self._dead_letters = dead_letters
        self._batch_size = batch_size
        self._batch_timeout_seconds = batch_timeout.total_seconds()
        self._clock = clock
        self._log = structlog.get_logger("ingestor.consumer")
        self._backoff = Backoff(metrics.dependency_errors, most_seconds=5)
        self._session = Session(
            loop,
            parameters(url, connection_name=connection_name),
            pause_seconds=partial(self._backoff.pause_seconds, "rabbitmq"),
            on_open=self._opened,
            on_lost=self._lost,
        )
        # The batches being written, one that waits, and one being gathered.
        self._prefetch = Prefetch((WRITERS + 2) * batch_size, HAND_TARGET_BYTES)
        self._draining = False
        self._forget()

    # The connection

    def open(self) -> None:
        """Begin to connect and consume."""
        self._session.open()

    def _opened(self, channel: Any) -> None:
        declare(channel, self._topology)
        channel.add_on_cancel_callback(self._cancelled)
        self._forget()
        self._consume(self._prefetch.messages)

    def _consume(self, prefetch: int) -> None:
        """Ask for this many messages more."""
        if self._session.channel is not None and not self._draining:
            self._asked += prefetch
            self._session.consume(self._topology.queue, prefetch, self._delivered, self._consuming)

    def _consuming(self) -> None:
        if self.fault:
            self._log.info("consuming", queue=self._topology.queue)
        self.fault = None
        self._backoff.reset()

    def _cancelled(self, _frame: Any) -> None:
        # The queue was deleted or its leader moved; pika would wait for ever.
        self._session.restart("RabbitMQ cancelled the consumer; was the queue deleted?")

    def _lost(self, reason: str) -> None:
        self.fault = reason
        self._log.warning("RabbitMQ is away, what was in hand will come again", error=reason)
        for batch in self._batches_in_hand():
            batch.abandoned = True
        self._dead_letters.forget_waiting()
        self._forget()

    def _forget(self) -> None:
        """Begin with empty hands."""
        self._asked = 0  # the prefetch of all consumers together; 0 while there is none
        self._hand_bytes = 0
        self._gathering: Batch | None = None
        self._overdue = False
        self._unsettled: deque[_Settlement] = deque()  # by delivery tags

    # From the queue to the writers

    def _delivered(self, delivery: Delivery) -> None:
        size_bytes = len(delivery.body)
        if self._hand_bytes + size_bytes > HAND_MOST_BYTES and self._hand_bytes:
            self._refuse(delivery.delivery_tag, size_bytes)
            return
        message = Message.of(delivery)
        self._hand_bytes += message.size_bytes
        batch = self._gathering
        if batch is not None and not batch.has_room_for(message, self._batch_size):
            self._hand_over(batch)
            batch = None
        if batch is None:
            batch = self._gathering = Batch(self._clock())
            self._loop.call_later(self._batch_timeout_seconds, partial(self._due, batch))
        batch.add(message)
        if batch.is_full(self._batch_size):
            self._hand_over(batch)

    def _refuse(self, delivery_tag: int, size_bytes: int) -> None:
        """Give a message back that memory has no room for, and ask for fewer from now on."""
        self._session.channel.basic_nack(delivery_tag, requeue=True)
        if self._asked:
            self._log.warning("messages are large, asking for fewer at once", hand_bytes=self._hand_bytes)
            self._prefetch.observe(1, 1, size_bytes)
            self._stop_consuming()

    def _stop_consuming(self) -> None:
        self._session.stop_consuming()
        self._asked = 0

    def _due(self, batch: Batch) -> None:
        if batch is not self._gathering:
            return
        # While the writers are busy the batch may as well grow.
        if self._writers_are_busy():
            self._overdue = True
        else:
            self._hand_over(batch)

    def _hand_over(self, batch: Batch) -> None:
        self._gathering = None
        self._overdue = False
        self._unsettled.append(_Settlement(batch))
        self._batches.put(batch)
        self._prefetch.observe(len(batch.messages), batch.events, batch.size_bytes)
        if self._asked and self._prefetch.messages >= 2 * self._asked:
            self._consume(self._prefetch.messages - self._asked)
        timestamp = batch.messages[0].delivery.properties.timestamp
        age = self._clock().timestamp() - timestamp if timestamp else 0
        self._metrics.queue_oldest_age_seconds.set(max(0, age))

    def _writers_are_busy(self) -> bool:
        return sum(not settlement.is_committed for settlement in self._unsettled) >= WRITERS

    # From the writers to the acknowledgement

    def written_elsewhere(self, batch: Batch, outcome: Outcome) -> None:
        """Take a batch back from a writer; called in its thread."""
        self._loop.add_callback_threadsafe(partial(self._written, batch, outcome))

    def _written(self, batch: Batch, outcome: Outcome) -> None:
        if batch.abandoned:
            return  # committed, but its delivery tags are gone; what comes again are duplicates
        settlement = next(settlement for settlement in self._unsettled if settlement.batch is batch)
        settlement.commit(outcome)
        for letter in outcome.dead_letters:
            self._dead_letters.publish(
                letter, partial(self._letter_confirmed, settlement, letter.message.delivery.delivery_tag)
            )
        self._log_batch(batch, outcome)
        if any(other.one_by_one for other in self._unsettled):
            self._acknowledge_one_by_one(settlement)
        self._settle()
        if self._gathering is not None and self._overdue and not self._writers_are_busy():
            self._hand_over(self._gathering)

    def _letter_confirmed(self, settlement: _Settlement, delivery_tag: int) -> None:
        if settlement.batch.abandoned:
            return
        settlement.held[delivery_tag] -= 1
        if settlement.held[delivery_tag] == 0:
            del settlement.held[delivery_tag]
            if settlement.one_by_one:
                self._session.channel.basic_ack(delivery_tag)
            self._settle()

    def _settle(self) -> None:
        """Acknowledge the batches at the head of the line that wait for nothing.

        Only the head: a tag that is acknowledged takes all before it along.
        """
        last_tag = None
        while self._unsettled and self._unsettled[0].waits_for_nothing:
            settlement = self._unsettled.popleft()
            self._let_go(settlement.size_bytes)
            self._metrics.batch_seconds.observe(
                (self._clock() - settlement.batch.received_at).total_seconds()
            )
            if not settlement.one_by_one:
                last_tag = settlement.batch.messages[-1].delivery.delivery_tag
        if last_tag is not None:
            self._session.channel.basic_ack(last_tag, multiple=True)

    def settle_slow(self) -> None:
        """Acknowledge all but the held messages of batches whose dead letters take long to confirm.

        A broker that is short of memory takes no publications until its consumers made room.
        """
        committed = [one for one in self._unsettled if one.is_committed and not one.one_by_one]
        if any(one.is_slow for one in committed):
            held = sum(len(one.held) for one in committed)
            self._log.warning("dead letters are slow to confirm", held=held)
            for settlement in committed:
                self._acknowledge_one_by_one(settlement)

    def _acknowledge_one_by_one(self, settlement: _Settlement) -> None:
        settlement.one_by_one = True
        for message in settlement.batch.messages:
            if message.delivery.delivery_tag not in settlement.held:
                self._session.channel.basic_ack(message.delivery.delivery_tag)
                settlement.size_bytes -= message.size_bytes
                self._let_go(message.size_bytes)

    def _let_go(self, size_bytes: int) -> None:
        self._hand_bytes -= size_bytes
        if not self._asked and self._hand_bytes < HAND_TARGET_BYTES // 2:
            self._consume(self._prefetch.messages)

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

    # Upkeep

    def measure_queues(self) -> None:
        """Ask the broker how many messages wait; the answers set the gauges."""
        channel = self._session.channel
        if channel is not None and self._asked:
            for queue in (self._topology.queue, self._topology.dead_letter_queue):
                channel.queue_declare(queue, passive=True, callback=self._measured)
        if not self.events_in_hand:
            self._metrics.queue_oldest_age_seconds.set(0)

    def _measured(self, frame: Any) -> None:
        self._metrics.queue_messages.labels(queue=frame.method.queue).set(frame.method.message_count)

    def is_consuming(self) -> bool:
        """Whether the channel is open and has its consumers, or a reason to have none."""
        channel = self._session.channel
        return channel is not None and channel.is_open and bool(channel.consumer_tags or not self._asked)

    # The end

    def drain(self) -> None:
        """Take nothing new; write and acknowledge what is in hand."""
        self._draining = True
        if self._session.channel is not None:
            self._stop_consuming()
        if self._gathering is not None:
            self._hand_over(self._gathering)

    @property
    def events_in_hand(self) -> int:
        """Events not committed yet, and those whose acknowledgement is not sent yet."""
        return sum(batch.events for batch in self._batches_in_hand())

    def _batches_in_hand(self) -> list[Batch]:
        gathering = [] if self._gathering is None else [self._gathering]
        return [*(settlement.batch for settlement in self._unsettled), *gathering]

    def close(self) -> None:
        """Close the connection; is_closed tells when that is done."""
        self._session.close()

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return self._session.is_closed
