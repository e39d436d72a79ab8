"""Batches: what fits, who is judged how, and how many messages to ask for."""

from datetime import UTC, datetime, timedelta

import pika
import pytest

from deploy.local.traffic import Event, Router, encode
from ingestor.batch import MAX_BATCH_BYTES, Batch, Message, Prefetch
from shared.rabbitmq.frames import Delivery

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def traffic(count: int) -> list[Event]:
    return Router(seed=1, start=NOW - timedelta(hours=1), end=NOW).events(count)


def message(body: bytes, tag: int = 1, headers: dict[str, str] | None = None) -> Message:
    encoded = b"".join(pika.BasicProperties(headers=headers).encode())
    return Message.of(Delivery(tag, b"usage", encoded, body))


def batch_of(*bodies: bytes) -> Batch:
    batch = Batch(NOW)
    for tag, body in enumerate(bodies, start=1):
        batch.add(message(body, tag))
    return batch


def test_the_first_delivered_of_an_identity_is_the_row_and_others_are_its_copies() -> None:
    [event] = traffic(1)
    first, other = encode(event), encode(event | {"latencyMs": event["latencyMs"] + 1})
    batch = batch_of(first, other, b"[" + first + b"]")
    [row] = batch.rows.values()
    assert [source.raw for source in row.sources] == [first, other, first]
    assert [source.message.delivery.delivery_tag for source in row.sources] == [1, 2, 3]
    assert row.count_differing(row.event.content_digest) == 1
    assert row.count_differing(row.sources[1].event.content_digest) == 2
    assert (batch.events, batch.dead_letters) == (3, [])


def test_identities_in_another_case_or_of_another_organisation_are_told_apart_rightly() -> None:
    one, two = traffic(2)
    upper = one | {"eventId": one["eventId"].upper(), "orgId": one["orgId"].upper()}
    elsewhere = one | {"orgId": two["eventId"]}
    batch = batch_of(*map(encode, (one, upper, elsewhere)))
    assert [len(row.sources) for row in batch.rows.values()] == [2, 1]


def test_each_invalid_element_is_refused_alone_and_a_message_that_is_none_as_a_whole() -> None:
    one, two = traffic(2)
    bad = encode(one | {"status": "maybe"})
    batch = batch_of(b"[%s, %s, 3, %s]" % (encode(one), bad, encode(two)), b"[1", b"[]")
    assert len(batch.rows) == 2
    assert [(each.body, each.reason) for each in batch.dead_letters] == [
        (bad, "invalid-field"),
        (b"3", "not-an-object"),
        (b"[1", "invalid-json"),
        (b"[]", "empty-batch"),
    ]


def test_a_dead_letter_keeps_the_time_it_was_first_seen() -> None:
    batch = Batch(NOW)
    batch.add(message(b"{", headers={"x-first-seen": "2026-01-01T00:00:00Z"}))
    batch.add(message(b"{"))
    assert [each.first_seen for each in batch.dead_letters] == [
        "2026-01-01T00:00:00Z",
        "2026-05-01T12:00:00Z",
    ]


def test_a_message_is_never_split_and_makes_a_batch_of_its_own_if_it_is_too_large() -> None:
    bodies = [encode(event) for event in traffic(5)]
    five = message(b"[" + b",".join(bodies) + b"]")
    assert Batch(NOW).has_room_for(five, 3)
    assert not batch_of(bodies[0]).has_room_for(five, 5)
    assert batch_of(bodies[0]).has_room_for(five, 6)
    assert batch_of(*bodies).is_full(5)
    assert not batch_of(*bodies).is_full(6)


def test_large_messages_close_a_batch_by_their_bytes() -> None:
    [event] = traffic(1)
    large = encode(event).ljust(1024 * 1024)
    batch = batch_of(*[large] * (MAX_BATCH_BYTES // len(large)))
    assert batch.is_full(2_000)
    assert not batch.has_room_for(message(b"{}"), 2_000)


@pytest.mark.parametrize(
    ("messages", "events", "size_bytes", "expected"),
    [
        (1_000, 1_000, 350_000, 6_000),  # three batches of single events
        (100, 10_000, 3_500_000, 60),  # three batches of messages with a hundred
        (10, 10_000, 10_000_000, 6),
        (10, 10, 10_000_000, 12),  # by bytes
        (1, 1, 100_000_000, 1),  # never none
    ],
)
def test_the_prefetch_follows_the_messages(
    messages: int, events: int, size_bytes: int, expected: int
) -> None:
    prefetch = Prefetch(target_events=6_000, target_bytes=12_000_000)
    assert prefetch.messages == Prefetch.FIRST_MESSAGES
    prefetch.observe(messages, events, size_bytes)
    assert prefetch.messages == expected
