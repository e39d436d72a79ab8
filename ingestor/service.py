"""The ingestor as a whole: its parts put together, its loop, its probes, its end."""

import queue
import time
from collections.abc import Callable
from functools import partial

import structlog

from ingestor.consumer import Consumer
from ingestor.dead_letters import DeadLetterPublisher
from ingestor.store import BatchStore
from ingestor.writer import WRITERS, Batches, Writer
from shared.amqp import Loop, Topology
from shared.metrics import IngestorMetrics
from shared.process import Stop, instance_name
from shared.settings import IngestorSettings

TICK_SECONDS = 0.25
QUEUE_CHECK_SECONDS = 5

# A loop or a writer that has not moved for this long is stuck: their longest waits are bounded below it.
STUCK_AFTER_SECONDS = 60

DRAIN_SECONDS = 15
CLOSE_SECONDS = 3


class Ingestor:
    """Runs until a stop: consumer and dead letters on the loop, each writer in a thread of its own."""

    def __init__(self, settings: IngestorSettings, metrics: IngestorMetrics) -> None:
        self._loop = Loop()
        self._log = structlog.get_logger("ingestor")
        self._failure: BaseException | None = None
        self._ticked_at = time.monotonic()
        self._queues_checked_at = 0.0
        name = instance_name()
        batches: Batches = queue.SimpleQueue()
        topology = Topology.of(settings)
        self._dead_letters = DeadLetterPublisher(
            self._loop,
            settings.rabbitmq_url,
            topology,
            metrics,
            connection_name=f"ingestor {name} dead letters",
        )
        self._consumer = Consumer(
            self._loop,
            settings.rabbitmq_url,
            topology,
            metrics,
            batches=batches,
            dead_letters=self._dead_letters,
            batch_size=settings.batch_size,
            batch_timeout=settings.batch_timeout,
            connection_name=f"ingestor {name}",
        )
        self._writers = [
            Writer(
                BatchStore(settings.database_url, name),
                batches,
                metrics,
                on_written=self._consumer.written_elsewhere,
                on_failed=self._writer_failed,
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
        faults = {"rabbitmq": self._consumer.fault, "postgresql": writer_fault}
        return {part: fault for part, fault in faults.items() if fault}

    def run(self, stop: Stop) -> None:
        """Work until the stop, then write and acknowledge what is in hand. Raises what the writer raised."""
        for writer in self._writers:
            writer.start()
        self._consumer.open()
        self._loop.call_later(TICK_SECONDS, partial(self._tick, stop))
        self._loop.start()
        if self._failure is None:
            self._drain()
        for writer in self._writers:
            writer.stop()
        deadline = time.monotonic() + CLOSE_SECONDS
        for writer in self._writers:
            writer.join(max(0, deadline - time.monotonic()))
        self._consumer.close()
        self._dead_letters.close()
        self._run_until(lambda: self._consumer.is_closed and self._dead_letters.is_closed, CLOSE_SECONDS)
        self._loop.close()
        if self._failure is not None:
            raise self._failure

    def _tick(self, stop: Stop) -> None:
        now = self._ticked_at = time.monotonic()
        if stop:
            self._loop.stop()
            return
        self._consumer.settle_slow()
        if now - self._queues_checked_at > QUEUE_CHECK_SECONDS:
            self._queues_checked_at = now
            self._consumer.measure_queues()
        self._loop.call_later(TICK_SECONDS, partial(self._tick, stop))

    def _drain(self) -> None:
        self._log.info("stopping", events_in_hand=self._consumer.events_in_hand)
        self._consumer.drain()
        self._run_until(lambda: self._consumer.events_in_hand == 0, DRAIN_SECONDS)
        if self._consumer.events_in_hand:
            self._log.warning(
                "stopped with events in hand; RabbitMQ will deliver them again",
                events=self._consumer.events_in_hand,
            )

    def _run_until(self, done: Callable[[], bool], most_seconds: float) -> None:
        """Run the loop until the condition holds or the time is over."""
        deadline = time.monotonic() + most_seconds

        def look() -> None:
            self._ticked_at = time.monotonic()
            if done() or self._failure is not None or self._ticked_at > deadline:
                self._loop.stop()
            else:
                self._loop.call_later(0.05, look)

        self._loop.call_later(0, look)
        self._loop.start()

    def _writer_failed(self, error: BaseException) -> None:
        """End the process with the writer's error; called in the writer's thread."""
        self._failure = error
        self._loop.add_callback_threadsafe(self._loop.stop)
