"""The connections of a session: one that reads frames itself, and one that leaves all to pika.

`Connection` is the one place that reaches into pika's private parts. tests/unit/test_pika.py fails when they
change, and RABBITMQ_READ_FRAMES=false runs without it.
"""

import select
import time
from collections.abc import Callable
from typing import Any

import pika
import pika.exceptions
from pika import frame, spec

from shared.rabbitmq.frames import DISCARD, Delivery, FrameReader, Receiver

# pika takes 4 KiB from the socket at a time, each a turn of its loop; 64 KiB were 5 to 10% faster.
_RECV_BYTES = 64 * 1024


class _Closable(pika.SelectConnection):  # type: ignore[misc]  # pika has no types
    """SelectConnection that can also be closed while the broker has not answered its handshake."""

    def _on_connection_workflow_done(self, result: Any) -> None:
        # pika reports a handshake that was given up by its error's class, and then asserts that it is none.
        super()._on_connection_workflow_done(result() if isinstance(result, type) else result)


class PlainConnection(_Closable):
    """SelectConnection as it is, with the methods of Connection.

    A consumer's messages come by `deliver`. A body of any size is in memory twice before it is sent on.
    """

    def __init__(self, *arguments: Any, on_failed: Callable[[BaseException], None], **options: Any) -> None:
        self.receivers: dict[tuple[int, bytes], Receiver] = {}
        self.unsent_bytes = 0
        self._on_failed = on_failed
        self._begun: tuple[str, bytes, pika.BasicProperties] | None = None
        super().__init__(*arguments, **options)

    def deliver(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """Take a message from pika."""
        receiver = self.receivers.get((channel.channel_number, method.consumer_tag.encode()), DISCARD)
        delivery = Delivery(method.delivery_tag, routing_key_bytes(method), properties.encoded, body)
        try:
            if len(body) <= receiver.max_body_bytes:
                receiver.on_delivery(delivery)
            else:
                receiver.on_oversized(delivery, len(body))(body)
        except pika.exceptions.AMQPError:
            raise  # pika gives the connection up
        except Exception as error:  # noqa: BLE001  pika would take it for a lost connection
            self._on_failed(error)

    def discard_all(self) -> None:
        """Pass nothing to the receivers any more."""
        self.receivers.clear()

    def begin_message(
        self,
        _channel: Any,
        exchange: str,
        routing_key: bytes,
        properties: pika.BasicProperties,
        _body_bytes: int,
    ) -> None:
        """Publish a message when its body comes, which is in one piece here, also where it is empty."""
        self._begun = exchange, routing_key, properties

    def send_piece(self, channel: Any, piece: bytes) -> None:
        """Send the body."""
        if self._begun is not None:
            exchange, routing_key, properties = self._begun
            channel.basic_publish(exchange, routing_key, piece, properties, mandatory=True)

    def wait_until_sent(self, *, max_unsent_bytes: int, seconds: float) -> bool:  # noqa: ARG002  as Connection's
        """Wait for nothing: pika takes all at once."""
        return True


def routing_key_bytes(method: Any) -> bytes:
    """Return the routing key of pika's Deliver or GetOk: it decodes what is UTF-8 and leaves the rest."""
    key: str | bytes = method.routing_key
    return key.encode() if isinstance(key, str) else key


class Connection(_Closable):
    """SelectConnection whose consumers' messages are read by FrameReader, all else by pika.

    on_failed: called with an error that our own callbacks raised while frames were read.
    """

    def __init__(self, *arguments: Any, on_failed: Callable[[BaseException], None], **options: Any) -> None:
        self._reader = FrameReader(super()._on_data_available)
        self._on_failed = on_failed
        super().__init__(*arguments, **options)

    def deliver(self, *_: Any) -> None:
        """Take nothing from pika: no message comes this way."""

    @property
    def receivers(self) -> dict[tuple[int, bytes], Receiver]:
        """Who takes the messages, by channel number and consumer tag."""
        return self._reader.receivers

    def discard_all(self) -> None:
        """Pass nothing to the receivers any more."""
        self._reader.discard_all()

    def begin_message(
        self,
        channel: Any,
        exchange: str,
        routing_key: bytes,
        properties: pika.BasicProperties,
        body_bytes: int,
    ) -> None:
        """Publish a message whose body follows by send_piece; until then nothing else may use the channel."""
        method = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
        header = frame.Header(channel.channel_number, body_bytes, properties)
        self._output_marshaled_frames(
            [frame.Method(channel.channel_number, method).marshal(), header.marshal()]
        )

    def send_piece(self, channel: Any, piece: bytes) -> None:
        """Send the next piece of a body."""
        for at in range(0, len(piece), self._body_max_length):
            part = piece[at : at + self._body_max_length]
            self._output_marshaled_frames([frame.Body(channel.channel_number, part).marshal()])

    def wait_until_sent(self, *, max_unsent_bytes: int, seconds: float) -> bool:
        """Hold the loop up until the socket has taken all but so much, or this long; return whether it has.

        What makes the other side of the loop read no faster than this side can send.
        """
        deadline = time.monotonic() + seconds
        while self.unsent_bytes > max_unsent_bytes and (left := deadline - time.monotonic()) > 0:
            _, writable, _ = select.select([], [self._transport._sock], [], left)
            if writable:
                self._transport._on_socket_writable()
        return self.unsent_bytes <= max_unsent_bytes

    @property
    def unsent_bytes(self) -> int:
        """What the socket has not taken yet."""
        size: int = self._transport.get_write_buffer_size() if self._transport else 0
        return size

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = _RECV_BYTES
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes) -> None:
        self.bytes_received += len(data_in)  # a sign of life, for the heartbeats
        try:
            self._reader.feed(data_in)
        except pika.exceptions.AMQPError:
            raise  # pika gives the connection up
        except Exception as error:  # noqa: BLE001  pika would take it for a lost connection
            self._on_failed(error)
