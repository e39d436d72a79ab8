"""Asks the broker how many messages wait in each queue."""

from typing import Any

from shared.metrics import IngestorMetrics
from shared.rabbitmq.topology import Topology


class QueueMetrics:
    """Sets the gauges of the queues' lengths. For the loop's thread alone."""

    def __init__(self, topology: Topology, metrics: IngestorMetrics) -> None:
        self._topology = topology
        self._metrics = metrics

    def ask(self, channel: Any) -> None:
        """Ask over this channel; the answers set the gauges when they come."""
        for queue in (self._topology.queue, self._topology.dead_letter_queue):
            channel.queue_declare(queue, passive=True, callback=self._answered)

    def _answered(self, frame: Any) -> None:
        self._metrics.queue_messages.labels(queue=frame.method.queue).set(frame.method.message_count)
