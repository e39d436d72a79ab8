"""Connections to RabbitMQ and how they come back; pika's errors in our own words."""

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pika
from pika.adapters.select_connection import IOLoop

from shared.errors import BrokerUnavailable
from shared.rabbitmq.connection import Connection, PlainConnection
from shared.rabbitmq.frames import Delivery, Receiver

# Above this a body that goes back to the broker is not put together first.
MAX_GIVEN_BACK_BYTES = 64 * 1024

Loop: TypeAlias = IOLoop
"""pika's event loop: call_later, remove_timeout, add_callback_threadsafe, start, stop."""

AnyConnection: TypeAlias = Connection | PlainConnection


class Session:
    """One connection with one channel on a loop, opened again after a pause whenever either is lost.

    hosts: connection parameters; a random one is tried first, and after each loss the next.

    For the loop's thread alone. With a channel come new delivery tags and no consumers: on_open gets
    each new channel and sets up everything, on_lost (once for each attempt that failed or ended, but
    not for close) gives up what belonged to it. on_failed gets an error of ours that was raised while frames
    were read, which pika would take for a lost connection: it must end the process. read_frames: read them
    ourselves, by pika's private parts.
    """

    def __init__(
        self,
        loop: Loop,
        hosts: Sequence[pika.URLParameters],
        *,
        pause_seconds: Callable[[], float],
        on_open: Callable[[Any], None],
        on_lost: Callable[[str], None],
        on_failed: Callable[[BaseException], None],
        read_frames: bool = True,
    ) -> None:
        self.channel: Any = None
        self._loop = loop
        self._hosts = itertools.cycle(random.sample(hosts, len(hosts)))
        self._pause_seconds = pause_seconds
        self._on_open = on_open
        self._on_lost = on_lost
        self._on_failed = on_failed
        self._connection_class = Connection if read_frames else PlainConnection
        self._connection: AnyConnection | None = None
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
        self._connection = self._connection_class(
            next(self._hosts),
            on_failed=self._on_failed,
            on_open_callback=self._connected,
            on_open_error_callback=self._disconnected,
            on_close_callback=self._disconnected,
            custom_ioloop=self._loop,
        )

    @property
    def connection(self) -> AnyConnection:
        """The connection of the open channel."""
        if self._connection is None:
            raise BrokerUnavailable
        return self._connection

    def consume(
        self, queue: str, prefetch: int, receiver: Receiver, on_consuming: Callable[[], None]
    ) -> None:
        """Add a consumer to the open channel; on_consuming is called when the broker agreed.

        A consumer's prefetch cannot be changed, so more is asked for by one consumer more.
        """
        channel = self.channel

        def consuming(_frame: Any) -> None:
            if channel is self.channel and consumer_tag in channel.consumer_tags:
                on_consuming()

        channel.basic_qos(prefetch_count=prefetch)
        consumer_tag = channel.basic_consume(queue, self.connection.deliver, callback=consuming)
        self.connection.receivers[channel.channel_number, consumer_tag.encode()] = receiver

    def stop_consuming(self) -> None:
        """Cancel all consumers; what the broker has sent already goes back to it."""
        channel = self.channel

        def give_back(delivery: Delivery) -> None:
            if channel.is_open:
                channel.basic_nack(delivery.delivery_tag, requeue=True)

        def give_back_oversized(delivery: Delivery, _body_bytes: int) -> Callable[[bytes], None]:
            give_back(delivery)
            return lambda _piece: None

        receivers = self.connection.receivers
        receivers.update(
            dict.fromkeys(receivers, Receiver(MAX_GIVEN_BACK_BYTES, give_back, give_back_oversized))
        )
        for consumer_tag in channel.consumer_tags:
            channel.basic_cancel(consumer_tag)

    def restart(self, reason: str) -> None:
        """Give the channel up and begin again with a new connection."""
        self._lose(reason)
        if self._connection is not None and not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def close(self) -> None:
        """Close for good; is_closed is true when that is done."""
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
        # A lost channel is followed by the end of its connection: one loss, reported once.
        self.channel = None
        if self._connection is not None:
            self._connection.discard_all()
        if not (self._lost or self._closing):
            self._lost = True
            self._on_lost(reason)


def _in_words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
