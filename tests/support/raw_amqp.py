"""Publishes messages as raw AMQP 0-9-1 frames: properties, headers and keys that no client library writes.

Source: AMQP 0-9-1 specification, sections 4.2 (frames, fields) and the class definitions; for the types of
fields, RabbitMQ's errata (https://www.rabbitmq.com/amqp-0-9-1-errata#section_3).
"""

import socket
import struct
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

# By name, in the order in which their flags and values stand; the flags count down from bit 15.
PROPERTIES = (
    "content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to",
    "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_CONNECTION_CLOSE, _CHANNEL_CLOSE = (10, 50), (20, 40)
_ACK, _NACK, _RETURN = (60, 80), (60, 120), (60, 50)


def short(text: bytes) -> bytes:
    """Write a short string."""
    return struct.pack("B", len(text)) + text


def field(kind: bytes, value: bytes) -> bytes:
    """Write a field's value: its type's letter, and the bytes; S, x, A and F get their length before them."""
    return kind + (struct.pack(">I", len(value)) if kind in b"SxAF" else b"") + value


def text(value: str | bytes) -> bytes:
    """Write a long string as a field's value."""
    return field(b"S", value.encode() if isinstance(value, str) else value)


def table(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Write the inside of a table of names and written values."""
    return b"".join(short(name) + value for name, value in pairs)


def properties(values: Mapping[str, bytes]) -> bytes:
    """Write properties, each value as it stands on the wire (headers: the inside of the table)."""
    flags, written = 0, b""
    for bit, name in enumerate(PROPERTIES):
        if (value := values.get(name)) is not None:
            flags |= 1 << (15 - bit)
            if name == "headers":
                written += struct.pack(">I", len(value)) + value
            elif name in {"delivery_mode", "priority", "timestamp"}:
                written += value
            else:
                written += short(value)
    return struct.pack(">H", flags) + written


class Refused(Exception):
    """The broker closed the channel or the connection instead of taking the message."""


class RawPublisher:
    """One connection with one channel in confirm mode; a context manager."""

    def __init__(self, url: str, *, frame_max: int = 131_072) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 5672), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = self._socket.makefile("rb")
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._wait_for((10, 10))
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        login = f"\0{user}\0{password}".encode()
        self._send_method(
            0,
            10,
            11,
            struct.pack(">I", 0) + short(b"PLAIN") + struct.pack(">I", len(login)) + login + short(b"C"),
        )
        self._wait_for((10, 30))
        self._send_method(0, 10, 31, struct.pack(">HIH", 1, frame_max, 0))
        vhost = unquote(parts.path[1:]).encode() or b"/"
        self._send_method(0, 10, 40, short(vhost) + short(b"") + b"\0")
        self._wait_for((10, 41))
        self._send_method(1, 20, 10, short(b""))
        self._wait_for((20, 11))
        self._send_method(1, 85, 10, b"\0")
        self._wait_for((85, 11))
        self._body_max = frame_max - 8

    def publish(self, exchange: str, routing_key: bytes, encoded: bytes, body: bytes) -> None:
        """Publish a message with encoded properties; returns once the broker has it. Raises Refused."""
        start = struct.pack(">H", 0) + short(exchange.encode()) + short(routing_key) + b"\0"
        self._send_method(1, 60, 40, start)
        self._send(_HEADER, 1, struct.pack(">HHQ", 60, 0, len(body)) + encoded)
        for at in range(0, len(body), self._body_max):
            self._send(_BODY, 1, body[at : at + self._body_max])
        if self._wait_for(_ACK, _NACK) == _NACK:
            raise Refused("basic.nack")

    def close(self) -> None:
        """Close the connection without a word."""
        self._input.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send_method(self, channel: int, class_id: int, method_id: int, arguments: bytes) -> None:
        self._send(_METHOD, channel, struct.pack(">HH", class_id, method_id) + arguments)

    def _send(self, kind: int, channel: int, payload: bytes) -> None:
        try:
            self._socket.sendall(struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce")
        except ConnectionError as error:
            raise Refused(str(error)) from error

    def _wait_for(self, *wanted: tuple[int, int]) -> tuple[int, int]:
        """Read frames until one of these methods comes. Raises Refused for a close."""
        while True:
            start = self._input.read(7)
            if len(start) < 7:
                raise Refused("the connection ended")
            kind, _channel, size = struct.unpack(">BHI", start)
            payload = self._input.read(size + 1)
            if kind != _METHOD:
                continue
            method: tuple[int, int] = struct.unpack_from(">HH", payload)
            if method in {_CONNECTION_CLOSE, _CHANNEL_CLOSE}:
                length = payload[6]
                raise Refused(payload[7 : 7 + length].decode(errors="replace"))
            if method in wanted:
                return method
