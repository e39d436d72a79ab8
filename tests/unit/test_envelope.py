"""Any metadata becomes an envelope, and any dead letter made from it fits into the smallest frame."""

import struct
from typing import Any

import pika
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestor.batch import DeadLetter
from ingestor.dead_letter_publisher import MAX_DETAIL_BYTES, properties_of
from ingestor.envelope import Envelope, read_envelope
from shared.rabbitmq.frames import Delivery
from tests.support.raw_amqp import PROPERTIES, field, properties, table, text

# AMQP 0-9-1: a frame has at least 4,096 bytes for whoever negotiates; 8 are around its payload, and 12 before
# the properties in a header frame.
MAX_PROPERTIES_BYTES = 4_096 - 8 - 12

SHORT = st.binary(max_size=255)
TEXTS = {
    name: SHORT for name in PROPERTIES if name not in {"headers", "delivery_mode", "priority", "timestamp"}
}
HEADERS = st.lists(
    st.tuples(
        SHORT | st.sampled_from([b"x-first-seen", b"x-reason", b"traceparent"]),
        st.builds(text, st.binary(max_size=600) | st.text(max_size=200).map(str.encode))
        | st.builds(field, st.sampled_from([b"A", b"F", b"x"]), st.binary(max_size=50)),
    ),
    max_size=40,
).map(table)
ENCODED = st.fixed_dictionaries(
    {},
    optional={
        **TEXTS,
        "headers": HEADERS | st.binary(max_size=300),
        "timestamp": st.binary(min_size=8, max_size=8),
    },
).map(properties)


def envelope(encoded: bytes, routing_key: bytes = b"usage") -> Envelope:
    return read_envelope(Delivery(7, routing_key, encoded, b""))


def with_headers(*pairs: tuple[bytes, bytes]) -> Envelope:
    return envelope(properties({"headers": table(pairs)}))


def dead_letter_headers(of: Envelope, detail: str = "the detail") -> dict[str, Any]:
    """Return the headers of a dead letter as whoever reads it sees them."""
    dead_letter = DeadLetter(of, b"{}", "invalid-json", detail, "2026-05-01T12:00:00Z")
    decoded = pika.BasicProperties().decode(b"".join(properties_of(dead_letter).encode()))
    headers: dict[str, Any] = decoded.headers
    return headers


@settings(max_examples=400, deadline=None)
@given(ENCODED | st.binary(max_size=400), SHORT, st.text(max_size=1_500))
@example(properties(dict.fromkeys(TEXTS, b"\xff" * 255)), b"\xff" * 255, "\ud800" * 1_500)
@example(
    properties({"headers": table([(b"%d" % number, text("\u20ac" * 9)) for number in range(99)])}), b"", ""
)
def test_any_bytes_become_an_envelope_whose_dead_letter_fits_into_the_smallest_frame(
    encoded: bytes, routing_key: bytes, detail: str
) -> None:
    found = envelope(encoded, routing_key)
    assert found.routing_key == routing_key
    dead_letter = DeadLetter(found, b"{}", "rejected-by-database", detail, "2026-05-01T12:00:00.123456Z")
    made = b"".join(properties_of(dead_letter).encode())
    assert len(made) <= MAX_PROPERTIES_BYTES
    again = envelope(made, routing_key)
    assert (again.texts | {"content-type": b""}) == (found.texts | {"content-type": b""})
    assert (again.headers, again.sent_at) == (found.headers, found.sent_at)
    assert (again.reason, again.left_out) == ("rejected-by-database", ())
    detail_header = dict(pika.BasicProperties().decode(made).headers)["x-detail"]
    assert len(detail_header.encode()) <= MAX_DETAIL_BYTES


def test_what_is_used_is_read_and_texts_are_carried_along() -> None:
    found = envelope(
        properties(
            {
                "correlation_id": b"abc-1",
                "message_id": b"\xfe",
                "timestamp": struct.pack(">Q", 1_700_000_000),
                "headers": table([(b"traceparent", text("00-ab")), (b"n", field(b"I", bytes(4)))]),
            }
        )
    )
    assert (found.correlation_id, found.sent_at, found.first_seen) == ("abc-1", 1_700_000_000, None)
    assert found.texts == {"correlation-id": b"abc-1", "message-id": b"\xfe"}
    assert found.headers == {"traceparent": "00-ab"}
    assert dead_letter_headers(found)["x-detail"] == "the detail (left out: 1 header)"


def test_what_would_delete_or_send_away_a_dead_letter_is_left_out_and_said() -> None:
    found = envelope(
        properties({"expiration": b"1", "user_id": b"guest", "reply_to": b"q", "cluster_id": b"c"})
    )
    assert found.texts == {}
    assert set(found.left_out) == {"expiration", "user-id", "reply-to", "cluster-id"}
    found = with_headers((b"CC", field(b"A", text("elsewhere"))), (b"BCC", text("x")))
    assert found.headers == {}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (text("2026-01-02T03:04:05Z"), "2026-01-02T03:04:05Z"),
        (text("2026-01-02T03:04:05.5+02:00"), "2026-01-02T03:04:05.5+02:00"),
        (text("yesterday"), None),
        (text("2026-01-02T03:04:05." + "0" * 60 + "Z"), None),
        (text(b"\xff"), None),
        (field(b"A", b"t\x01" * 25_000), None),
        (field(b"T", bytes(8)), None),
    ],
)
def test_the_time_it_was_first_seen_is_believed_only_if_it_is_a_time(
    written: bytes, read: str | None
) -> None:
    found = with_headers((b"x-first-seen", written))
    assert found.first_seen == read
    assert (found.left_out == ()) == (read is not None)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([(b"x-reason", text("invalid-json"))], "invalid-json"),
        ([(b"x-first-death-reason", text("delivery_limit"))], "delivery-limit"),
        ([(b"x-reason", text("\x1b[2J")), (b"x-first-death-reason", text("expired"))], "expired"),
        ([(b"x-reason", field(b"I", bytes(4)))], "unknown"),
        ([(b"x-reason", text("a" * 100))], "unknown"),
        ([], "unknown"),
    ],
)
def test_the_reason_of_a_dead_letter_is_a_short_word_group_or_unknown(
    pairs: list[tuple[bytes, bytes]], reason: str
) -> None:
    assert with_headers(*pairs).reason == reason
