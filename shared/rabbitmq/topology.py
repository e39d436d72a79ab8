"""The exchanges and queues, and how they are declared."""

from dataclasses import dataclass
from typing import Any

from shared.settings import BrokerSettings

# Redeliveries before the broker itself dead-letters a message. High on purpose: it counts crashes of
# consumers, which hit innocent messages; poison is found and dead-lettered by the ingestor.
DELIVERY_LIMIT = 200

# For the dead-letter queue there is nothing behind the limit: what passes it would be lost.
NO_DELIVERY_LIMIT = 1_000_000_000


@dataclass(frozen=True)
class Topology:
    """Names of the exchange and queue that carry events, and of those that take the refused ones."""

    exchange: str
    queue: str
    dead_letter_exchange: str
    dead_letter_queue: str

    @classmethod
    def of(cls, settings: BrokerSettings) -> "Topology":
        """Take the names from the settings."""
        return cls(
            settings.exchange,
            settings.queue,
            settings.dead_letter_exchange,
            settings.dead_letter_queue,
        )


def declare(channel: Any, topology: Topology) -> None:
    """Declare exchanges, queues and bindings; does nothing where they exist alike.

    Raises pika's ChannelClosedByBroker where they exist with other arguments.
    """
    channel.exchange_declare(topology.dead_letter_exchange, exchange_type="topic", durable=True)
    channel.queue_declare(
        topology.dead_letter_queue,
        durable=True,
        arguments={"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT},
    )
    channel.queue_bind(topology.dead_letter_queue, topology.dead_letter_exchange, routing_key="#")
    channel.exchange_declare(topology.exchange, exchange_type="topic", durable=True)
    channel.queue_declare(
        topology.queue,
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": topology.dead_letter_exchange,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",  # at-least-once dead-lettering needs it
            "x-delivery-limit": DELIVERY_LIMIT,
        },
    )
    channel.queue_bind(topology.queue, topology.exchange, routing_key="#")
