"""The border to RabbitMQ: connections and how they come back, the topology, errors in our own words."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from struct import error as StructError  # noqa: N812  as in amqp_frames
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import pika
import pika.exceptions
from pika.adapters.select_connection import IOLoop

from shared.amqp_frames import Incomplete, frame_end, read_delivery
from shared.errors import BrokerUnavailable
from shared.settings import BrokerSettings

# Twice this without a sign of life and either side gives the connection up.
HEARTBEAT_SECONDS = 20

# Redeliveries before the broker itself dead-letters a message. High on purpose: it counts crashes of
# consumers, which hit innocent messages; poison is found and dead-lettered by the ingestor.
DELIVERY_LIMIT = 200

# For the dead-letter queue there is nothing behind the limit: what passes it would be lost.
NO_DELIVERY_LIMIT = 1_000_000_000

Loop: TypeAlias = IOLoop
"""pika's event loop: call_later, remove_timeout, add_callback_threadsafe, start, stop."""


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


def check_url(url: str) -> None:
    """Raise ValueError, which shows no value, where pika would refuse the URL. Connects to nothing."""
    parts = urlsplit(url)
    if parts.path.count("/") > 1:
        raise ValueError("has a virtual host with a / in it, which must be written %2F")
    if parts.username is not None and parts.password is None:
        raise ValueError("has a user and no password")
    options = parse_qs(parts.query, keep_blank_values=True)
    for name, values in options.items():
        alone = urlunsplit(parts._replace(query=urlencode({name: values[0]})))
        try:
            parameters(alone, connection_name="")
        # pika evaluates some options as Python and opens the files that others name.
        except Exception:  # noqa: BLE001  whatever it raises now it would raise at each connect
            shown = name if re.fullmatch("[a-z_]{1,40}", name) else "of its"
            raise ValueError(f"has an option {shown} that pika does not take") from None
        if len(values) > 1:
            raise ValueError("has an option twice")


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


def persistent(
    *,
    headers: Mapping[str, Any] | None = None,
    message_id: str | None = None,
    correlation_id: str | None = None,
    timestamp: int | None = None,
) -> pika.BasicProperties:
    """Return the properties of a JSON message that survives a restart of the broker.

    timestamp: Unix time in seconds.
    """
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,
        headers=dict(headers or {}),
        message_id=message_id,
        correlation_id=correlation_id,
        timestamp=timestamp,
    )


class Delivery:
    """A delivered message. Its properties are decoded when first asked for; most never are."""

    __slots__ = ("_properties", "body", "delivery_tag", "routing_key")

    def __init__(
        self, delivery_tag: int, routing_key: str, properties: bytes | pika.BasicProperties, body: bytes
    ) -> None:
        self.delivery_tag = delivery_tag
        self.routing_key = routing_key
        self.body = body
        self._properties = properties

    @property
    def properties(self) -> Any:
        """pika's BasicProperties; empty ones if what came cannot be read."""
        if isinstance(self._properties, bytes):
            encoded, self._properties = self._properties, pika.BasicProperties()
            with suppress(pika.exceptions.AMQPError, ValueError, OverflowError, IndexError, StructError):
                self._properties = pika.BasicProperties().decode(encoded)
        return self._properties


# pika takes 4 KiB from the socket at a time, each a turn of its loop; 64 KiB were 5 to 10% faster.
_RECV_BYTES = 64 * 1024


class _Connection(pika.SelectConnection):  # type: ignore[misc]  # pika has no types
    """SelectConnection that reads small deliveries in one step; see shared/amqp_frames.py.

    receivers: by channel number and consumer tag. A consumer without one is served by pika alone.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.receivers: dict[tuple[int, bytes], Callable[[Delivery], None]] = {}
        self._frame_buffer = b""
        super().__init__(*arguments, **options)

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = _RECV_BYTES
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes) -> None:
        buffer = self._frame_buffer + data_in
        self._frame_buffer = b""
        at = 0
        with suppress(Incomplete):
            while True:
                frames = read_delivery(buffer, at)
                receiver = frames and self.receivers.get((frames.channel, frames.consumer_tag))
                if frames and receiver:
                    end = frames.end
                    self.bytes_received += end - at
                    self.frames_received += 3
                    key = frames.routing_key.decode(errors="replace")
                    receiver(Delivery(frames.delivery_tag, key, frames.properties, frames.body))
                else:
                    end = frame_end(buffer, at)
                    super()._on_data_available(buffer[at:end])
                at = end
        self._frame_buffer = buffer[at:]


class Session:
    """One connection with one channel on a loop, opened again after a pause whenever either is lost.

    For the loop's thread alone. With a channel come new delivery tags and no consumers: on_open gets
    each new channel and sets up everything, on_lost (once for each attempt that failed or ended, but
    not for close) gives up what belonged to it.
    """

    def __init__(
        self,
        loop: Loop,
        connection_parameters: pika.URLParameters,
        *,
        pause_seconds: Callable[[], float],
        on_open: Callable[[Any], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.channel: Any = None
        self._loop = loop
        self._parameters = connection_parameters
        self._pause_seconds = pause_seconds
        self._on_open = on_open
        self._on_lost = on_lost
        self._connection: Any = None
        self._timer: Any = None
        self._closing = False
        self._lost = False

    @property
    def is_closed(self) -> bool:
        """Whether nothing of the session is left: after close(), or before open()."""
        return self._connection is None and self._timer is None

    def open(self) -> None:
        """Begin to connect; the rest happens in the loop."""
        self._timer = None
        self._lost = False
        self._connection = _Connection(
            self._parameters,
            on_open_callback=self._connected,
            on_open_error_callback=self._disconnected,
            on_close_callback=self._disconnected,
            custom_ioloop=self._loop,
        )

    def consume(
        self,
        queue: str,
        prefetch: int,
        on_delivery: Callable[[Delivery], None],
        on_consuming: Callable[[], None],
    ) -> None:
        """Add a consumer to the open channel; on_consuming is called when the broker agreed.

        A consumer's prefetch cannot be changed, so more is asked for by one consumer more.
        """
        channel = self.channel

        def deliver(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            if channel is self.channel:
                on_delivery(Delivery(method.delivery_tag, method.routing_key, properties, body))

        def consuming(_frame: Any) -> None:
            if channel is self.channel and consumer_tag in channel.consumer_tags:
                receivers[channel.channel_number, consumer_tag.encode()] = on_delivery
                on_consuming()

        receivers = self._connection.receivers
        channel.basic_qos(prefetch_count=prefetch)
        consumer_tag = channel.basic_consume(queue, deliver, callback=consuming)

    def stop_consuming(self) -> None:
        """Cancel all consumers; what the broker has sent already goes back to it."""
        self._connection.receivers.clear()
        for consumer_tag in self.channel.consumer_tags:
            self.channel.basic_cancel(consumer_tag)

    def restart(self, reason: str) -> None:
        """Give the channel up and begin again with a new connection."""
        self._lose(reason)
        if self._connection is not None and not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def close(self) -> None:
        """Close for good; is_closed tells when that is done."""
        self._closing = True
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._timer = None
        self.restart("closed by this process")

    def _connected(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._channel_opened)

    def _channel_opened(self, channel: Any) -> None:
        channel.add_on_close_callback(self._channel_closed)
        self.channel = channel
        self._on_open(channel)

    def _channel_closed(self, channel: Any, reason: Exception) -> None:
        # The broker may close the channel alone and leave the connection open.
        if channel is self.channel:
            self.restart(_in_words(reason))

    def _disconnected(self, _connection: Any, reason: BaseException) -> None:
        self._connection = None
        self._lose(_in_words(reason))
        if not self._closing:
            self._timer = self._loop.call_later(self._pause_seconds(), self.open)

    def _lose(self, reason: str) -> None:
        # A lost channel is followed by the end of its connection: one loss, told once.
        self.channel = None
        if self._connection is not None:
            self._connection.receivers.clear()
        if not (self._lost or self._closing):
            self._lost = True
            self._on_lost(reason)


def _in_words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def blocking_channel(url: str, *, connection_name: str) -> Iterator[Any]:
    """Lend a channel whose calls wait for the broker, with publisher confirms on.

    Raises BrokerUnavailable, for pika's errors inside the block too.
    """
    with translated_errors():
        connection = pika.BlockingConnection(parameters(url, connection_name=connection_name))
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            if connection.is_open:
                connection.close()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn pika's errors, and the socket's beneath them, into BrokerUnavailable."""
    try:
        yield
    except (pika.exceptions.AMQPError, OSError) as error:
        raise BrokerUnavailable(str(error) or type(error).__name__) from error
