"""The pipe between reading and uploading: nothing lost, bounded, and never an end that is a failure."""

import threading
import time

import pytest

from export_worker.pipe import Pipe, Standstill


def fed(pipe: Pipe, pieces: list[bytes]) -> threading.Thread:
    """Write the pieces from another thread, then complete the pipe."""

    def feed() -> None:
        for piece in pieces:
            pipe.put(piece)
        pipe.complete()

    thread = threading.Thread(target=feed)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [1, 7, 64, 1_000, 100_000])
def test_reads_are_exactly_as_long_as_asked_until_the_end(size: int) -> None:
    pieces = [bytes([at % 251]) * (at % 40 + 1) for at in range(500)]
    whole = b"".join(pieces)
    pipe = Pipe(100, patience_seconds=10)
    writer = fed(pipe, pieces)
    got = []
    while part := pipe.read(size):
        got.append(part)
    writer.join()
    assert b"".join(got) == whole
    assert all(len(part) == size for part in got[:-1])
    assert pipe.read(size) == b""


def test_a_writer_that_is_far_ahead_waits() -> None:
    pipe = Pipe(10, patience_seconds=10)
    written = []

    def feed() -> None:
        for at in range(5):
            pipe.put(b"x" * 10)
            written.append(at)
        pipe.complete()

    writer = threading.Thread(target=feed)
    writer.start()
    time.sleep(0.2)
    assert written == [0]
    assert pipe.read(50) == b"x" * 50
    writer.join()


def test_a_failure_is_never_taken_for_an_end() -> None:
    pipe = Pipe(100, patience_seconds=10)
    pipe.put(b"half a")
    pipe.fail(RuntimeError("the database went away"))
    with pytest.raises(RuntimeError, match="went away"):
        pipe.read(100)
    with pytest.raises(RuntimeError, match="went away"):
        pipe.put(b"more")


def test_the_first_failure_stays_and_wakes_a_side_that_waits() -> None:
    pipe = Pipe(100, patience_seconds=10)
    timer = threading.Timer(0.1, pipe.fail, [RuntimeError("first")])
    timer.start()
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="first"):
        pipe.read(1)
    assert time.monotonic() - began < 5
    pipe.fail(RuntimeError("second"))
    with pytest.raises(RuntimeError, match="first"):
        pipe.read(1)
    timer.join()


def test_neither_side_waits_without_end() -> None:
    pipe = Pipe(1, patience_seconds=0.05)
    with pytest.raises(Standstill):
        pipe.read(1)
    pipe.put(b"xx")
    with pytest.raises(Standstill):
        pipe.put(b"x")
