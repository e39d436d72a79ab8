"""Deliveries are read from AMQP frames as pika reads them, wherever the bytes are cut."""

from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pika import frame, spec

from shared.amqp import Delivery, _Connection
from shared.amqp_frames import Incomplete, frame_end, read_delivery

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


class Recorder(_Connection):
    """A connection without a socket: records what the fast way and what pika's way received."""

    def __init__(self) -> None:
        self.fast: list[Message] = []
        self.slow: list[Any] = []
        self.receivers = {(1, b"one"): self._receive(1), (2, b"two"): self._receive(2)}
        self._frame_buffer = b""
        self.bytes_received = self.frames_received = 0

    def _receive(self, channel: int) -> Any:
        def receive(message: Delivery) -> None:
            assert message.properties.headers == PROPERTIES.headers
            assert message.properties.timestamp == PROPERTIES.timestamp
            self.fast.append((channel, message.delivery_tag, message.routing_key, message.body))

        return receive

    def _process_frame(self, frame_value: Any) -> None:
        self.slow.append(frame_value)

    def feed(self, data: bytes, size: int) -> None:
        for at in range(0, len(data), size):
            self._on_data_available(data[at : at + size])


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    opened = Recorder()
    yield opened
    assert opened._frame_buffer == b""


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
        recorder._on_data_available(STREAM[:cut])
        recorder._on_data_available(STREAM[cut:])
        assert recorder.fast == EXPECTED
        assert [type(each) for each in recorder.slow] == [frame.Heartbeat]
        assert recorder.bytes_received == len(STREAM)
        assert recorder._frame_buffer == b""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 64])
def test_a_stream_in_small_pieces_gives_the_same_messages(recorder: Recorder, size: int) -> None:
    recorder.feed(STREAM, size)
    assert recorder.fast == EXPECTED


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_bodies_of_several_frames_and_of_none_go_pika_s_way_frame_by_frame(
    recorder: Recorder, size: int
) -> None:
    recorder.feed(delivery(1, b"x" * 300, pieces=3) + delivery(2, b"") + delivery(3, b"y"), size)
    assert [message[1] for message in recorder.fast] == [3]
    kinds = [frame.Method, frame.Header, frame.Body, frame.Body, frame.Body, frame.Method, frame.Header]
    assert [type(each) for each in recorder.slow] == kinds
    assert b"".join(each.fragment for each in recorder.slow if isinstance(each, frame.Body)) == b"x" * 300


def test_a_heartbeat_does_not_wait_for_what_comes_after_it(recorder: Recorder) -> None:
    recorder._on_data_available(frame.Heartbeat().marshal())
    assert [type(each) for each in recorder.slow] == [frame.Heartbeat]


def test_a_message_without_a_body_does_not_wait_for_what_comes_after_it(recorder: Recorder) -> None:
    recorder._on_data_available(delivery(1, b""))
    assert [type(each) for each in recorder.slow] == [frame.Method, frame.Header]


@pytest.mark.parametrize(("channel", "consumer"), [(1, "two"), (2, "one"), (3, "one")])
def test_a_delivery_for_a_consumer_without_a_receiver_goes_pika_s_way(
    recorder: Recorder, channel: int, consumer: str
) -> None:
    recorder._on_data_available(delivery(1, b"x", channel=channel, consumer=consumer))
    assert recorder.fast == []
    assert len(recorder.slow) == 3


def test_frames_of_two_channels_that_interleave_go_pika_s_way(recorder: Recorder) -> None:
    first, second = delivery(1, b"aa"), delivery(2, b"bb", channel=2, consumer="two")
    cut = frame_end(first, 0)
    recorder._on_data_available(first[:cut] + second + first[cut:])
    assert recorder.fast == [(2, 2, "usage", b"bb")]
    assert [type(each) for each in recorder.slow] == [frame.Method, frame.Header, frame.Body]


def test_a_frame_without_its_end_mark_is_not_taken_for_a_message() -> None:
    whole = delivery(1, b"body")
    assert read_delivery(whole, 0) is not None
    assert read_delivery(whole[:-1] + b"\x00", 0) is None


def test_what_is_not_whole_is_incomplete() -> None:
    whole = delivery(1, b"body")
    for cut in range(len(whole)):
        with pytest.raises(Incomplete):
            read_delivery(whole[:cut], 0)
