"""What stands beside a message's body, as bounded plain values.

Whatever a producer wrote there, of any type, encoding, nesting or size, `read_envelope` answers and never
raises; nobody else looks at raw properties. What is carried along with a dead letter fits into the smallest
frame that AMQP allows, and can be written as it was read.
"""

import re

import msgspec

from shared.rabbitmq.frames import Delivery
from shared.rabbitmq.properties import Properties, read_properties
from shared.usage_event.text import instant

# A dead letter's header frame has to fit into 4,096 bytes, the least that a broker may negotiate: six
# properties of 255 bytes, these headers, and 1,200 bytes for ours.
MAX_HEADERS_BYTES = 1_200
_FIELD_BYTES = 6  # a name's length, a value's type and length

# Short strings that mean the same to whoever reads a dead letter. The others are left out: an expiration
# would delete it, a user-id that is not ours would be refused, a reply has nobody to go to.
_CARRIED = ("content-type", "content-encoding", "correlation-id", "message-id", "type", "app-id")

# Headers that dead-lettering adds, ours and the broker's; CC and BCC would send a dead letter elsewhere.
_NOT_CARRIED = re.compile(
    rb"x-(reason|detail|first-seen|death|delivery-count|acquired-count|(first|last)-death-.*|opt-.*)|CC|BCC",
    re.DOTALL,
)
_REASON = re.compile(rb"[a-z][a-z0-9_-]{0,63}")
_MAX_FIRST_SEEN_BYTES = 40


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A message's metadata.

    routing_key: at most 255 bytes of any content. sent_at: its timestamp in seconds, 0 to 2^64 - 1.
    first_seen: the RFC 3339 time that an earlier dead letter of it carried. reason: why it is a dead letter,
    if it is one. texts, headers: what to carry along. left_out: what is not carried, in words.
    """

    delivery_tag: int
    routing_key: bytes
    correlation_id: str | None
    sent_at: int | None
    first_seen: str | None
    reason: str
    texts: dict[str, bytes]
    headers: dict[str, str]
    left_out: tuple[str, ...]


def read_envelope(delivery: Delivery) -> Envelope:
    """Read a message's metadata."""
    properties = read_properties(delivery.properties)
    headers, skipped = _headers_to_carry(properties)
    left_out = [name for name in properties.texts if name not in _CARRIED]
    if skipped:
        left_out.append(f"{skipped} headers" if skipped > 1 else "1 header")
    if not properties.is_whole:
        left_out.append("what follows an unreadable property")
    found = dict(properties.headers)
    first_seen = _first_seen(found.get(b"x-first-seen"))
    if b"x-first-seen" in found and first_seen is None:
        left_out.append("an x-first-seen that is no time")
    correlation_id = properties.texts.get("correlation-id")
    return Envelope(
        delivery_tag=delivery.delivery_tag,
        routing_key=delivery.routing_key,
        correlation_id=None if correlation_id is None else _text(correlation_id),
        sent_at=properties.timestamp,
        first_seen=first_seen,
        reason=_reason(found),
        texts={name: properties.texts[name] for name in _CARRIED if name in properties.texts},
        headers=headers,
        left_out=tuple(left_out),
    )


def _headers_to_carry(properties: Properties) -> tuple[dict[str, str], int]:
    """Return headers that are texts, as many as there is room for, and how many others there are."""
    kept: dict[str, str] = {}
    room_bytes = MAX_HEADERS_BYTES
    skipped = 0
    for name, value in properties.headers:
        is_ours = _NOT_CARRIED.fullmatch(name) is not None
        name_text, value_text = _text(name), None if value is None else _text(value)
        size_bytes = _FIELD_BYTES + len(name) + len(value or b"")
        if name_text is None or value_text is None or is_ours or size_bytes > room_bytes:
            skipped += not is_ours
            continue
        kept[name_text] = value_text
        room_bytes -= size_bytes
    return kept, skipped


def _text(encoded: bytes) -> str | None:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return None


def _first_seen(value: bytes | None) -> str | None:
    if value is None or len(value) > _MAX_FIRST_SEEN_BYTES:
        return None
    try:
        text = value.decode()
        instant(text)
    except ValueError:  # UnicodeDecodeError is one
        return None
    return text


def _reason(headers: dict[bytes, bytes | None]) -> str:
    """Return our reason, or the broker's (`delivery-limit`)."""
    for name in (b"x-reason", b"x-first-death-reason"):
        value = headers.get(name)
        if value is not None and _REASON.fullmatch(value):
            return value.decode().replace("_", "-")
    return "unknown"
