"""Gathers messages into a batch until it is full or due, and passes it to the writers."""

from datetime import timedelta
from functools import partial

from ingestor.batch import Batch, Message, Prefetch
from ingestor.settlement import Settlement
from ingestor.writer import WRITERS, Batches
from shared.clock import Clock
from shared.metrics import IngestorMetrics
from shared.rabbitmq.session import Loop

# A batch that is due while the writers are busy may as well grow; how long until the next look.
_BUSY_SECONDS = 0.01

# Older than the oldest event that is taken, a message's timestamp is no measure of the queue.
_MAX_AGE_SECONDS = 400 * 86_400


class Gathering:
    """The batch that is being gathered. For the loop's thread alone."""

    def __init__(
        self,
        loop: Loop,
        batches: Batches,
        settlement: Settlement,
        metrics: IngestorMetrics,
        *,
        batch_size: int,
        batch_timeout: timedelta,
        clock: Clock,
        prefetch: Prefetch,
    ) -> None:
        self._loop = loop
        self._batches = batches
        self._settlement = settlement
        self._metrics = metrics
        self._batch_size = batch_size
        self._batch_timeout_seconds = batch_timeout.total_seconds()
        self._clock = clock
        self._prefetch = prefetch
        self._batch: Batch | None = None

    @property
    def size_bytes(self) -> int:
        """What the gathered messages take in memory."""
        return 0 if self._batch is None else self._batch.size_bytes

    @property
    def events(self) -> int:
        """How many events are gathered."""
        return 0 if self._batch is None else self._batch.events

    def add(self, message: Message, asked: int) -> bool:
        """Take a message in; return whether a batch was submitted.

        asked: how many messages the broker sends before one is acknowledged. A batch of so many is not kept
        waiting for more: none would come.
        """
        submitted = False
        if self._batch is not None and not self._batch.has_room_for(message, self._batch_size):
            self.submit()
            submitted = True
        batch = self._batch
        if batch is None:
            batch = self._batch = Batch(self._clock())
            self._loop.call_later(self._batch_timeout_seconds, partial(self._due, batch))
        batch.add(message)
        if batch.is_full(self._batch_size) or len(batch.messages) == asked:
            self.submit()
            submitted = True
        return submitted

    def submit(self) -> None:
        """Give what is gathered to the writers, if there is anything."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        self._settlement.add(batch)
        self._batches.put(batch)
        self._measure_age(batch)
        self._prefetch.observe(len(batch.messages), batch.events, batch.size_bytes)

    def abandon(self) -> None:
        """Drop what is gathered: it will come again."""
        self._batch = None

    def _due(self, batch: Batch) -> None:
        if batch is not self._batch:
            return
        if self._settlement.writing >= WRITERS:
            self._loop.call_later(_BUSY_SECONDS, partial(self._due, batch))
        else:
            self.submit()

    def _measure_age(self, batch: Batch) -> None:
        age = self._clock().timestamp() - (batch.sent_at or 0)
        self._metrics.queue_oldest_age_seconds.set(age if 0 < age <= _MAX_AGE_SECONDS else 0)
