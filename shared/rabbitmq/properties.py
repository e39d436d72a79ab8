"""Reads and makes the properties of messages.

pika decodes properties into Python objects and raises on much that RabbitMQ lets through: TypeError, OSError
for a timestamp of 10^17, RecursionError for deep tables. Here they are walked by their lengths: nothing
nests, nothing is converted but numbers of fixed size, and whatever they hold, nothing is raised.

Source: AMQP 0-9-1 specification, 4.2.5 and 4.2.6; for the types of fields RabbitMQ's errata.
"""

from collections.abc import Mapping
from contextlib import suppress
from struct import Struct
from struct import error as StructError  # noqa: N812  a name of its own beside IndexError
from typing import Any

import msgspec
import pika
from pika import spec

_FLAGS = Struct(">H")
_LENGTH = Struct(">I")
_TIMESTAMP = Struct(">Q")

# In the order of their flags, from bit 15 down, and so of their values.
_NAMES = (
    "content-type", "content-encoding", "headers", "delivery-mode", "priority", "correlation-id", "reply-to",
    "expiration", "message-id", "timestamp", "type", "user-id", "app-id", "cluster-id",
)  # fmt: skip

_FIXED_BYTES = {
    ord(kind): size
    for kinds, size in {"tbB": 1, "sUu": 2, "Iif": 4, "D": 5, "LldT": 8, "V": 0}.items()
    for kind in kinds
}
_LONG_STRING = ord("S")
_WITH_LENGTH = frozenset(b"SxAF")


class Properties(msgspec.Struct, eq=False):
    """What properties hold, as bytes of any content.

    texts: short strings of at most 255 bytes by the property's name. headers: names and values; None for
    a value that is not a text. timestamp: as sent, 0 to 2^64 - 1. is_whole: whether all could be read.
    """

    texts: dict[str, bytes] = {}
    headers: list[tuple[bytes, bytes | None]] = []
    timestamp: int | None = None
    is_whole: bool = False


def read_properties(encoded: bytes) -> Properties:
    """Read properties as they stand in a header frame. What cannot be read is left out."""
    found = Properties()
    with suppress(IndexError, StructError):
        _read(encoded, found)
        found.is_whole = True
    return found


def _read(encoded: bytes, found: Properties) -> None:
    [flags] = _FLAGS.unpack_from(encoded)
    at = 2
    while encoded[at - 1] & 1:  # more words of flags, none of which has a meaning
        _FLAGS.unpack_from(encoded, at)
        at += 2
    for bit, name in enumerate(_NAMES):
        if not flags & (1 << (15 - bit)):
            continue
        if name == "headers":
            end = at + 4 + _LENGTH.unpack_from(encoded, at)[0]
            _read_headers(encoded, at + 4, end, found)
            at = end
        elif name == "timestamp":
            [found.timestamp] = _TIMESTAMP.unpack_from(encoded, at)
            at += 8
        elif name in {"delivery-mode", "priority"}:
            at += 1
        else:
            found.texts[name], at = _slice(encoded, at + 1, encoded[at])


def _read_headers(encoded: bytes, at: int, end: int, found: Properties) -> None:
    while at < end:
        name, at = _slice(encoded, at + 1, encoded[at])
        kind = encoded[at]
        size = _FIXED_BYTES.get(kind)
        at += 1
        if size is None:
            if kind not in _WITH_LENGTH:
                raise IndexError  # an unknown type: nobody knows where it ends
            [size] = _LENGTH.unpack_from(encoded, at)
            at += 4
        value, at = _slice(encoded, at, size)
        found.headers.append((name, value if kind == _LONG_STRING else None))


def _slice(encoded: bytes, at: int, size: int) -> tuple[bytes, int]:
    """Return so many bytes and the offset behind them. Raises IndexError where there are not so many."""
    end = at + size
    if end > len(encoded):
        raise IndexError
    return encoded[at:end], end


class TolerantProperties(pika.BasicProperties):  # type: ignore[misc]  # pika has no types
    """Properties that pika's decoder cannot break a connection with.

    encoded: as they came. The attributes that pika decoded before it failed are set.
    """

    encoded = b""

    def decode(self, encoded: bytes, offset: int = 0) -> "TolerantProperties":
        """Keep what came, and decode as much of it as pika can."""
        self.encoded = encoded[offset:]
        with suppress(Exception):
            super().decode(encoded, offset)
        return self


# Where pika looks up what to decode a header frame with, for every kind of connection.
spec.props[pika.BasicProperties.INDEX] = TolerantProperties


def persistent(
    *,
    headers: Mapping[str, Any] | None = None,
    timestamp: int | None = None,
    texts: Mapping[str, bytes] | None = None,
) -> pika.BasicProperties:
    """Return the properties of a JSON message that survives a restart of the broker.

    timestamp: Unix time in seconds. texts: short strings of at most 255 bytes by the property's name.
    """
    made = pika.BasicProperties(
        content_type="application/json", delivery_mode=2, headers=dict(headers or {}), timestamp=timestamp
    )
    for name, value in (texts or {}).items():
        setattr(made, name.replace("-", "_"), value)
    return made
