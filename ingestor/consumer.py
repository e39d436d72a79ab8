"""Takes messages from the queue: the connection, and how much is asked for at once.

One thread runs the loop and owns the connection, so heartbeats go on while a commit is slow. A lost channel
takes its delivery tags with it: what was in flight comes again.
"""

from functools import partial
from typing import Any

import structlog

from ingestor.batch import Message, Prefetch
from ingestor.gathering import Gathering
from ingestor.oversized import OversizedMover
from ingestor.sessions import Sessions
from ingestor.settlement import Settlement
from shared.metrics import IngestorMetrics
from shared.process import Backoff
from shared.rabbitmq.frames import Chunk, Delivery, Receiver
from shared.rabbitmq.topology import Topology, declare
from shared.usage_event.schema import MAX_MESSAGE_BYTES

# Messages and dead letters in flight: what is asked for, and what is never passed.
TARGET_BYTES = 12 * 1024 * 1024
MAX_BYTES = 24 * 1024 * 1024

# More is asked for when this many times as much is wanted.
_GROWTH = 1.5


class Consumer:
    """Consumes until drained. For the loop's thread alone.

    fault: why nothing is consumed, if so. channel: the open channel, else None.
    """

    def __init__(
        self,
        sessions: Sessions,
        topology: Topology,
        metrics: IngestorMetrics,
        *,
        prefetch: Prefetch,
        gathering: Gathering,
        settlement: Settlement,
        oversized: OversizedMover,
    ) -> None:
        self.fault: str | None = "not connected yet"
        self._topology = topology
        self._log = structlog.get_logger("ingestor.consumer")
        self._backoff = Backoff(metrics.dependency_errors, max_seconds=5)
        self._session = sessions.make(
            "", partial(self._backoff.pause_seconds, "rabbitmq"), on_open=self._opened, on_lost=self._lost
        )
        self._prefetch = prefetch
        self._asked = 0  # the prefetch of all consumers together; 0 while there is none
        self._room_bytes = 0  # at least; found out again when it is used up
        self._draining = False
        self._gathering = gathering
        self._settlement = settlement
        self._oversized = oversized

    def open(self) -> None:
        """Begin to connect and consume."""
        self._session.open()

    def drain(self) -> None:
        """Take nothing new; write and acknowledge what is in flight."""
        self._draining = True
        if self._session.channel is not None:
            self._stop_consuming()
        self._gathering.submit()

    def close(self) -> None:
        """Close the connection; is_closed is true when that is done."""
        self._session.close()

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return self._session.is_closed

    @property
    def channel(self) -> Any:
        """The open channel, None while there is none."""
        return self._session.channel

    def is_consuming(self) -> bool:
        """Whether the channel is open and has its consumers, or a reason to have none."""
        channel = self._session.channel
        return channel is not None and channel.is_open and bool(channel.consumer_tags or not self._asked)

    def ask(self) -> None:
        """Ask the broker for as many messages as there should be in flight now.

        Messages that wait for their dead letters do not count: the others have to come past them.
        """
        if self._session.channel is None or self._draining:
            return
        wanted = self._prefetch.messages + self._settlement.held
        if self._asked:
            if wanted >= _GROWTH * self._asked:
                self._consume(wanted - self._asked)
        elif self._size_bytes < TARGET_BYTES // 2:
            self._consume(wanted)

    @property
    def _size_bytes(self) -> int:
        """What the messages and dead letters in flight take in memory, roughly."""
        return self._gathering.size_bytes + self._settlement.size_bytes

    def _opened(self, channel: Any) -> None:
        declare(channel, self._topology)
        channel.add_on_cancel_callback(self._cancelled)
        self._settlement.begin(channel)
        self._asked = 0
        self._consume(self._prefetch.messages)

    def _consume(self, prefetch: int) -> None:
        """Ask for this many messages more."""
        if self._session.channel is not None and not self._draining:
            prefetch = min(prefetch, Prefetch.MAX_MESSAGES)
            self._asked += prefetch
            receiver = Receiver(MAX_MESSAGE_BYTES, self._delivered, self._oversized_delivered)
            self._session.consume(self._topology.queue, prefetch, receiver, self._consuming)

    def _consuming(self) -> None:
        if self.fault:
            self._log.info("consuming", queue=self._topology.queue)
        self.fault = None
        self._backoff.reset()

    def _stop_consuming(self) -> None:
        self._session.stop_consuming()
        self._asked = 0

    def _delivered(self, delivery: Delivery) -> None:
        message = Message.of(delivery)
        self._room_bytes -= message.size_bytes
        if self._room_bytes < 0 and not self._has_room_for(message):
            self._refuse(message)
        elif self._gathering.add(message, self._asked):
            self._room_bytes = MAX_BYTES - self._size_bytes
            self.ask()

    def _has_room_for(self, message: Message) -> bool:
        """Find out how much room there is now; a message alone always has some."""
        in_flight_bytes = self._size_bytes
        self._room_bytes = MAX_BYTES - in_flight_bytes - message.size_bytes
        return self._room_bytes >= 0 or not in_flight_bytes

    def _oversized_delivered(self, delivery: Delivery, body_bytes: int) -> Chunk:
        self._gathering.submit()  # acknowledgements keep the order of delivery
        return self._oversized.take(delivery, body_bytes)

    def _refuse(self, message: Message) -> None:
        """Give a message back that memory has no room for, and ask for fewer from now on."""
        self._session.channel.basic_nack(message.delivery.delivery_tag, requeue=True)
        if self._asked:
            self._log.warning("no room for more messages", in_flight_bytes=self._size_bytes)
            self._prefetch.observe(1, 1, message.size_bytes)
            self._stop_consuming()

    def _cancelled(self, _frame: Any) -> None:
        # The queue was deleted or its leader moved; pika would wait for ever.
        self._session.restart("RabbitMQ cancelled the consumer; was the queue deleted?")

    def _lost(self, reason: str) -> None:
        self.fault = reason
        self._log.warning("RabbitMQ is away, what was in flight will come again", error=reason)
        self._gathering.abandon()
        self._oversized.abandon()
        self._settlement.abandon()
        self._asked = 0
