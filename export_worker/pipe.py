"""A bounded pipe between the thread that reads the database and the thread that uploads.

A kernel pipe would do but for one thing: its reader cannot distinguish a writer that is done from one that
failed, and a file that was cut short would be uploaded as whole.
"""

import io
import threading
from collections import deque
from collections.abc import Callable

from shared.errors import AnalyticsError


class Standstill(AnalyticsError):
    """No bytes moved for too long."""


class Pipe(io.RawIOBase):
    """Hands bytes from one writing thread to one reading thread, at most about capacity_bytes at a time.

    A side that waits for the other longer than patience_seconds raises Standstill.
    """

    def __init__(self, capacity_bytes: int, patience_seconds: float) -> None:
        self._capacity_bytes = capacity_bytes
        self._patience_seconds = patience_seconds
        self._pieces: deque[bytes] = deque()
        self._held_bytes = 0
        self._complete = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, piece: bytes) -> None:
        """Wait for room, then hand the piece over. Raises what fail() was given."""
        with self._changed:
            self._wait(lambda: self._held_bytes < self._capacity_bytes)
            self._pieces.append(piece)
            self._held_bytes += len(piece)
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        if not self._changed.wait_for(lambda: self._failure or ready(), self._patience_seconds):
            raise Standstill
        if self._failure:
            raise self._failure

    def complete(self) -> None:
        """Say that the last piece was put: only now the reader sees an end."""
        with self._changed:
            self._complete = True
            self._changed.notify_all()

    def fail(self, failure: BaseException) -> None:
        """End both sides: their next use raises this. The first failure stays."""
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    def readable(self) -> bool:
        """Return True: it can be read."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return exactly size bytes, fewer only at the end. Raises what fail() was given."""
        taken: list[bytes] = []
        missing = size
        while missing > 0:
            piece = self._take(missing)
            if not piece:
                break
            taken.append(piece)
            missing -= len(piece)
        return b"".join(taken)

    def _take(self, most_bytes: int) -> bytes:
        with self._changed:
            self._wait(lambda: bool(self._pieces) or self._complete)
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            if len(piece) > most_bytes:
                self._pieces.appendleft(piece[most_bytes:])
                piece = piece[:most_bytes]
            self._held_bytes -= len(piece)
            self._changed.notify_all()
            return piece
