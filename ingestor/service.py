"""The ingestor as a whole: its parts put together, its loop, its probes, its end."""

import queue
import time
from collections.abc import Callable
from functools import partial

import structlog

from ingestor.batch import Batch, Prefetch
from ingestor.closed_parts import ClosedParts
from ingestor.consumer import TARGET_BYTES, Consumer
from ingestor.dead_letter_publisher import DeadLetterPublisher
from ingestor.gathering import Gathering
from ingestor.oversized import OversizedMover
from ingestor.queue_metrics import QueueMetrics
from ingestor.sessions import Sessions
from ingestor.settlement import Settlement
from ingestor.store import BatchStore, Outcome
from ingestor.writer import WRITERS, Batches, Writer
from shared.clock import Clock, utc_now
from shared.metrics import IngestorMetrics
from shared.process import Parts, Stop, instance_name, join
from shared.rabbitmq.session import Loop
from shared.rabbitmq.topology import Topology
from shared.settings import IngestorSettings

TICK_SECONDS = 0.25
QUEUE_CHECK_SECONDS = 5

# A loop or a writer that has not moved for this long is stuck: their longest waits are bounded below it.
STUCK_AFTER_SECONDS = 60

DRAIN_SECONDS = 15
CLOSE_SECONDS = 3


class Ingestor:
    """Runs until a stop: consumer and dead letters on the loop, each writer in a thread of its own."""

    def __init__(self, settings: IngestorSettings, metrics: IngestorMetrics, clock: Clock = utc_now) -> None:
        self._loop = Loop()
        self._log = structlog.get_logger("ingestor")
        self._metrics = metrics
        self._failure: BaseException | None = None
        self._ticked_at = time.monotonic()
        self._queues_checked_at = 0.0
        name = instance_name()
        batches: Batches = queue.SimpleQueue()
        topology = Topology.of(settings)
        # The batches being written, one that waits, and one being gathered.
        prefetch = Prefetch((WRITERS + 2) * settings.batch_size, TARGET_BYTES)
        self._queue_metrics = QueueMetrics(topology, metrics)
        sessions = Sessions(
            self._loop, settings.rabbitmq_url, f"ingestor {name}", self._fail, settings.read_frames
        )
        self._dead_letters = DeadLetterPublisher(sessions, topology, metrics)
        self._settlement = Settlement(self._dead_letters, metrics, clock)
        self._oversized = OversizedMover(sessions, topology, metrics, self._settlement, clock=clock)
        self._gathering = Gathering(
            self._loop,
            batches,
            self._settlement,
            metrics,
            batch_size=settings.batch_size,
            batch_timeout=settings.batch_timeout,
            clock=clock,
            prefetch=prefetch,
        )
        self._consumer = Consumer(
            sessions,
            topology,
            metrics,
            prefetch=prefetch,
            gathering=self._gathering,
            settlement=self._settlement,
            oversized=self._oversized,
        )
        closed = ClosedParts()
        self._writers = [
            Writer(
                BatchStore(settings.database_url, name, closed),
                batches,
                metrics,
                on_written=self._written,
            )
            for _ in range(WRITERS)
        ]

    def live(self) -> dict[str, str]:
        """Return what is wrong with this process itself; a server that is away is not."""
        faults = {}
        now = time.monotonic()
        if now - self._ticked_at > STUCK_AFTER_SECONDS:
            faults["loop"] = f"has not moved for {now - self._ticked_at:.0f} s"
        writers_moved_at = min(writer.progress_at for writer in self._writers)
        if now - writers_moved_at > STUCK_AFTER_SECONDS:
            faults["writer"] = f"has not moved for {now - writers_moved_at:.0f} s"
        if self._consumer.fault is None and not self._consumer.is_consuming():
            faults["consumer"] = "the channel is closed or has no consumer, and nobody noticed"
        return faults

    def ready(self) -> dict[str, str]:
        """Return the dependencies that do not do their part."""
        writer_fault = next((writer.fault for writer in self._writers if writer.fault), None)
        faults = {
            "rabbitmq": self._consumer.fault,
            "postgresql": writer_fault,
            "dead_letters": self._dead_letters.fault or self._oversized.fault,
        }
        return {part: fault for part, fault in faults.items() if fault}

    def run(self, stop: Stop, parts: Parts) -> None:
        """Work until the stop, then write and acknowledge what is in flight.

        parts: those of the process; the writers become some. Raises the error that ends it early.
        """
        writers = [parts.start("writer", writer.run) for writer in self._writers]
        self._consumer.open()
        self._loop.call_later(TICK_SECONDS, partial(self._tick, stop, parts))
        self._run_loop()
        self._drain()
        for writer in self._writers:
            writer.stop()
        join(writers, CLOSE_SECONDS)
        closing = (self._consumer, self._dead_letters, self._oversized)
        for connection in closing:
            connection.close()
        self._run_until(lambda: all(connection.is_closed for connection in closing), CLOSE_SECONDS)
        self._loop.close()

    def _run_loop(self) -> None:
        """Run the loop until it is stopped. Raises what its callbacks raised."""
        self._loop.start()
        if self._failure is not None:
            raise self._failure

    def _tick(self, stop: Stop, parts: Parts) -> None:
        now = self._ticked_at = time.monotonic()
        parts.check()
        if stop:
            self._loop.stop()
            return
        self._settlement.pass_slow()
        self._dead_letters.check()
        self._oversized.check()
        self._consumer.ask()
        if now - self._queues_checked_at > QUEUE_CHECK_SECONDS:
            self._queues_checked_at = now
            self._measure_queues()
        self._loop.call_later(TICK_SECONDS, partial(self._tick, stop, parts))

    def _measure_queues(self) -> None:
        if self._consumer.channel is not None:
            self._queue_metrics.ask(self._consumer.channel)
        if not self._events_in_flight:
            self._metrics.queue_oldest_age_seconds.set(0)

    @property
    def _events_in_flight(self) -> int:
        """Events that are not committed yet."""
        return self._gathering.events + self._settlement.events_writing

    def _drain(self) -> None:
        self._log.info("stopping", events_in_flight=self._events_in_flight)
        self._consumer.drain()
        self._run_until(lambda: self._settlement.is_done, DRAIN_SECONDS)
        if not self._settlement.is_done:
            self._log.warning(
                "stopped with messages in flight; RabbitMQ will deliver them again",
                events=self._events_in_flight,
                dead_letters=self._dead_letters.unconfirmed,
            )

    def _run_until(self, done: Callable[[], bool], max_seconds: float) -> None:
        """Run the loop until the condition holds or the time is over."""
        deadline = time.monotonic() + max_seconds

        def look() -> None:
            self._ticked_at = time.monotonic()
            if done() or self._ticked_at > deadline:
                self._loop.stop()
            else:
                self._loop.call_later(0.05, look)

        self._loop.call_later(0, look)
        self._run_loop()

    def _written(self, batch: Batch, outcome: Outcome) -> None:
        """Pass a batch on to the loop's thread; called in a writer's."""
        self._loop.add_callback_threadsafe(partial(self._settlement.written, batch, outcome))

    def _fail(self, error: BaseException) -> None:
        """End the process with an error of a callback that pika would have swallowed."""
        self._failure = self._failure or error
        self._loop.stop()
