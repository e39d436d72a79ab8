"""The border to RabbitMQ: connection parameters, the topology, and errors in our own words."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pika
import pika.exceptions

from shared.errors import BrokerUnavailable
from shared.settings import BrokerSettings

# Twice this without a sign of life and either side gives the connection up.
HEARTBEAT_SECONDS = 20

# Redeliveries before the broker itself dead-letters a message. High on purpose: it counts crashes of
# consumers, which hit innocent messages; poison is found and dead-lettered by the ingestor.
DELIVERY_LIMIT = 200


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


def parameters(url: str, *, connection_name: str) -> pika.URLParameters:
    """Return connection parameters with a limit on every wait. Raises ValueError on an unreadable URL."""
    found = pika.URLParameters(url)
    found.heartbeat = HEARTBEAT_SECONDS
    found.blocked_connection_timeout = 30
    found.socket_timeout = 5
    found.stack_timeout = 10
    found.connection_attempts = 1
    found.client_properties = {"connection_name": connection_name}
    return found


def declare(channel: Any, topology: Topology) -> None:
    """Declare exchanges, queues and bindings; does nothing where they exist alike.

    Raises pika's ChannelClosedByBroker where they exist with other arguments.
    """
    channel.exchange_declare(topology.dead_letter_exchange, exchange_type="topic", durable=True)
    channel.queue_declare(topology.dead_letter_queue, durable=True, arguments={"x-queue-type": "quorum"})
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


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn pika's errors, and the socket's beneath them, into BrokerUnavailable."""
    try:
        yield
    except (pika.exceptions.AMQPError, OSError) as error:
        raise BrokerUnavailable(str(error) or type(error).__name__) from error
