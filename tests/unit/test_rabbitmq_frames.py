"""Deliveries are read from AMQP frames as pika reads them, wherever the bytes are cut."""

from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika import frame, spec

from shared.rabbitmq.frames import (
    Chunk,
    Delivery,
    FrameReader,
    Incomplete,
    Receiver,
    frame_end,
    read_delivery,
)

PROPERTIES = pika.BasicProperties(
    content_type="application/json", delivery_mode=2, timestamp=1_700_000_000, headers={"x-a": "b", "n": 7}
)
Message = tuple[int, int, str, bytes]


def delivery(
    tag: int, body: bytes, *, channel: int = 1, consumer: str = "one", pieces: int = 1, key: str = "usage"
) -> bytes:
    """Return the frames of a delivered message, its body cut into so many frames."""
    method = spec.Basic.Deliver(consumer, tag, False, "analytics.usage", key)
    frames = [frame.Method(channel, method), frame.Header(channel, len(body), PROPERTIES)]
    if body:
        step = -(-len(body) // pieces)
        frames += [frame.Body(channel, body[at : at + step]) for at in range(0, len(body), step)]
    return b"".join(each.marshal() for each in frames)


MAX_BODY_BYTES = 1_000


class Recorder:
    """Records what a reader gave to its receivers, whole or in pieces, and what it left to pika."""

    def __init__(self) -> None:
        self.fast: list[Message] = []
        self.pieces: list[tuple[int, int, list[bytes]]] = []
        self.slow: list[Any] = []
        self.reader = FrameReader(self._left)
        for channel, consumer in ((1, b"one"), (2, b"two")):
            receive, receive_oversized = self._receive(channel), self._receive_oversized()
            self.reader.receivers[channel, consumer] = Receiver(MAX_BODY_BYTES, receive, receive_oversized)

    def _receive(self, channel: int) -> Callable[[Delivery], None]:
        def receive(message: Delivery) -> None:
            assert message.properties == b"".join(PROPERTIES.encode())
            key = message.routing_key.decode()
            self.fast.append((channel, message.delivery_tag, key, message.body))

        return receive

    def _receive_oversized(self) -> Callable[[Delivery, int], Chunk]:
        def receive(message: Delivery, size: int) -> Chunk:
            assert message.properties == b"".join(PROPERTIES.encode())
            pieces: list[bytes] = []
            self.pieces.append((message.delivery_tag, size, pieces))
            return pieces.append

        return receive

    def _left(self, encoded: bytes) -> None:
        consumed, decoded = frame.decode_frame(encoded)
        assert consumed == len(encoded)
        self.slow.append(decoded)

    def feed(self, data: bytes, size: int | None = None) -> None:
        for at in range(0, len(data), size or len(data) or 1):
            self.reader.feed(data[at : at + (size or len(data))])


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    opened = Recorder()
    yield opened
    assert opened.reader._buffer == b""


STREAM = (
    delivery(1, b'{"a": 1}')
    + frame.Heartbeat().marshal()
    + delivery(2, b'{"b": 2}', channel=2, consumer="two", key="Gr\u00fc\u00dfe")
    + delivery(3, b"\xce" * 40)
)
EXPECTED = [
    (1, 1, "usage", b'{"a": 1}'),
    (2, 2, "Gr\u00fc\u00dfe", b'{"b": 2}'),
    (1, 3, "usage", b"\xce" * 40),
]


def test_a_stream_cut_at_any_byte_gives_the_same_messages() -> None:
    for cut in range(len(STREAM) + 1):
        recorder = Recorder()
        recorder.feed(STREAM[:cut])
        recorder.feed(STREAM[cut:])
        assert recorder.fast == EXPECTED
        assert [type(each) for each in recorder.slow] == [frame.Heartbeat]
        assert recorder.reader._buffer == b""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 64])
def test_a_stream_in_small_pieces_gives_the_same_messages(recorder: Recorder, size: int) -> None:
    recorder.feed(STREAM, size)
    assert recorder.fast == EXPECTED


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_bodies_of_several_frames_and_of_none_are_put_together(recorder: Recorder, size: int) -> None:
    recorder.feed(delivery(1, b"x" * 300, pieces=3) + delivery(2, b"") + delivery(3, b"y"), size)
    assert [message[1:] for message in recorder.fast] == [
        (1, "usage", b"x" * 300),
        (2, "usage", b""),
        (3, "usage", b"y"),
    ]
    assert recorder.slow == []


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_body_that_is_too_large_comes_in_pieces(recorder: Recorder, pieces: int) -> None:
    body = b"x" * (MAX_BODY_BYTES + 1)
    recorder.feed(delivery(1, body, pieces=pieces) + delivery(2, b"y" * MAX_BODY_BYTES, pieces=2))
    [(tag, size, got)] = recorder.pieces
    assert (tag, size, b"".join(got), len(got)) == (1, len(body), body, pieces)
    assert [message[1] for message in recorder.fast] == [2]


def test_after_the_loss_of_the_channels_nobody_gets_the_rest(recorder: Recorder) -> None:
    whole = delivery(1, b"x" * 300, pieces=3)
    recorder.feed(whole[:-100])
    recorder.reader.discard_all()
    recorder.feed(whole[-100:] + delivery(2, b"y"))
    assert (recorder.fast, recorder.pieces, recorder.slow) == ([], [], [])


def test_a_heartbeat_does_not_wait_for_what_comes_after_it(recorder: Recorder) -> None:
    recorder.feed(frame.Heartbeat().marshal())
    assert [type(each) for each in recorder.slow] == [frame.Heartbeat]


def test_a_message_without_a_body_does_not_wait_for_what_comes_after_it(recorder: Recorder) -> None:
    recorder.feed(delivery(1, b""))
    assert [message[1] for message in recorder.fast] == [1]


@pytest.mark.parametrize(("channel", "consumer"), [(1, "two"), (2, "one"), (3, "one")])
def test_a_delivery_for_a_consumer_without_a_receiver_goes_pika_s_way(
    recorder: Recorder, channel: int, consumer: str
) -> None:
    recorder.feed(delivery(1, b"x", channel=channel, consumer=consumer))
    assert recorder.fast == []
    assert len(recorder.slow) == 3


def test_frames_of_two_channels_may_interleave(recorder: Recorder) -> None:
    first, second = delivery(1, b"aa"), delivery(2, b"bb", channel=2, consumer="two")
    cut = frame_end(first, 0)
    recorder.feed(first[:cut] + second + first[cut:])
    assert recorder.fast == [(2, 2, "usage", b"bb"), (1, 1, "usage", b"aa")]


def test_a_frame_without_its_end_mark_is_not_taken_for_a_message() -> None:
    whole = delivery(1, b"body")
    assert read_delivery(whole, 0) is not None
    assert read_delivery(whole[:-1] + b"\x00", 0) is None


def test_what_is_not_whole_is_incomplete() -> None:
    whole = delivery(1, b"body")
    for cut in range(len(whole)):
        with pytest.raises(Incomplete):
            read_delivery(whole[:cut], 0)
