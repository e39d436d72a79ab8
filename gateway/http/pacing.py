"""Bounds how long an answer may wait for its reader, so that slow readers hold no thread."""

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

import structlog

from gateway.http.arrival import MIN_BYTES_PER_SECOND

MAX_WRITE_DELAY_SECONDS = 10.0
"""The whole time that an answer may wait for its reader is this and its size at MIN_BYTES_PER_SECOND."""

# What the kernel may hold of a stream that is not read: by itself it takes megabytes, and the reader of those
# seems fast for a minute. With 100 ms to the client this still lets 4 MB/s through. Other answers are left to
# the kernel: most fit into what it takes, and then no thread waits for the client at all.
_SEND_BUFFER_BYTES = 200 * 1024

# An answer is written in pieces of this size, so that its reader's progress shows.
_PIECE_BYTES = 256 * 1024

_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.server")


class Pacing:
    """Gives each piece of an answer a deadline, and ends the connections that miss theirs.

    Threads call `pieces`, the worker's main thread calls `end_overdue`.
    """

    def __init__(self) -> None:
        self._deadlines: dict[socket.socket, float] = {}

    def pieces(self, answer: Iterable[bytes], sock: socket.socket) -> Iterator[bytes]:
        """Yield an answer in pieces; each must have been taken by its deadline."""
        if not isinstance(answer, list):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        waited_seconds, sent_bytes = 0.0, 0
        try:
            for whole in answer:
                for at in range(0, len(whole), _PIECE_BYTES):
                    piece = whole[at : at + _PIECE_BYTES]
                    sent_bytes += len(piece)
                    allowed_seconds = MAX_WRITE_DELAY_SECONDS + sent_bytes / MIN_BYTES_PER_SECOND
                    began = time.monotonic()
                    self._deadlines[sock] = began + allowed_seconds - waited_seconds
                    yield piece
                    self._deadlines.pop(sock, None)
                    waited_seconds += time.monotonic() - began
        finally:
            self._deadlines.pop(sock, None)
            if hasattr(answer, "close"):
                answer.close()

    def end_overdue(self, now: float) -> None:
        """Shut down the connections whose client reads too slowly; now: time.monotonic() seconds."""
        for sock, deadline in list(self._deadlines.items()):
            if deadline < now and self._deadlines.pop(sock, None) is not None:
                _log.info("closed a connection whose client reads too slowly")
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # its thread gets an error at once
