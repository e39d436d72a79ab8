"""Finds out when a whole request has arrived on a connection, so that no thread need wait for one.

Only what decides that is read here: where the head ends and how long the body is. What is malformed goes to
gunicorn's own parser, which refuses it, as soon as that needs no more bytes to do so.
"""

import re
from dataclasses import dataclass

MAX_HEAD_BYTES = 128 * 1024
MAX_BODY_BYTES = 1024 * 1024
"""Of a longer body so much and one byte more arrives here, enough for the application to refuse it."""

_MAX_CHUNKED_BYTES = 4 * MAX_BODY_BYTES
_MAX_CHUNK_LINE_BYTES = 4096
_MAX_TRAILER_BYTES = 8192

MAX_HEAD_SECONDS = 10.0
"""The whole time a request's head may take."""

MAX_BODY_DELAY_SECONDS = 10.0
MIN_BYTES_PER_SECOND = 64 * 1024
"""The whole time a body may take is the delay and its size at this rate."""

_BARE_LF = re.compile(rb"(?<!\r)\n")
_LENGTHS = re.compile(rb"\r\ncontent-length:([^\r\n]*)", re.IGNORECASE)
_CODINGS = re.compile(rb"\r\ntransfer-encoding:([^\r\n]*)", re.IGNORECASE)
_CONTINUE = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused before its end has arrived."""

    status: int
    detail: str


class Arrival:
    """The bytes of one request so far. Instants are time.monotonic() seconds."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.data = bytearray()
        self.is_whole = False
        self.is_cut_short = False
        """Whole enough: of a body that is too long, the rest has not arrived."""
        self.refusal: Refusal | None = None
        self.wants_continue = False
        """The client waits for `100 Continue` before it sends the body."""
        self._body_began = now
        self._in_body = False
        self._body_at = 0
        self._length: int | None = None  # of the body; None when it comes in chunks
        self._chunk_at = 0
        self._decoded = 0
        self._head_deadline = now + MAX_HEAD_SECONDS

    @property
    def deadline(self) -> float:
        """When it must be whole."""
        if not self._in_body:
            return self._head_deadline
        size = len(self.data) - self._body_at if self._length is None else self._length
        return self._body_began + MAX_BODY_DELAY_SECONDS + min(size, MAX_BODY_BYTES) / MIN_BYTES_PER_SECOND

    def add(self, piece: bytes, now: float) -> None:
        """Take more bytes; is_whole or refusal is set when no more are needed."""
        seen = len(self.data)
        self.data += piece
        if not self._in_body:
            self._look_for_head(max(0, seen - 3), now)
        if self._in_body and not self.is_whole:
            self._look_for_end()

    def _look_for_head(self, start: int, now: float) -> None:
        end = self.data.find(b"\r\n\r\n", start)
        if end < 0:
            if _BARE_LF.search(self.data, start):
                self.refusal = Refusal(400, "Each line of a request's head ends with CR and LF.")
            elif len(self.data) > MAX_HEAD_BYTES:
                self.refusal = Refusal(431, f"The request's head has more than {MAX_HEAD_BYTES} bytes.")
            return
        head = bytes(self.data[: end + 2])
        lengths, codings = _LENGTHS.findall(head), _CODINGS.findall(head)
        if not lengths and not codings:
            self.is_whole = True
            return
        if len(lengths) + len(codings) > 1:  # malformed
            self.is_whole = True
            return
        if codings:
            is_chunked = codings[0].rpartition(b",")[2].strip(b" \t").lower() == b"chunked"
            self.is_whole = not is_chunked
        else:
            length = lengths[0].strip(b" \t")
            self.is_whole = not length.isdigit()
            self._length = 0 if self.is_whole else int(length[:18])  # more digits change nothing
        self._in_body = True
        self._body_at = self._chunk_at = end + 4
        self._body_began = now
        self.wants_continue = len(self.data) == self._body_at and _CONTINUE.search(head) is not None

    def _look_for_end(self) -> None:
        if self._length is None:
            self._look_for_last_chunk()
            return
        wanted = min(self._length, MAX_BODY_BYTES + 1)
        self.is_whole = len(self.data) - self._body_at >= wanted
        self.is_cut_short = self.is_whole and self._length > wanted

    def _look_for_last_chunk(self) -> None:
        while not self.is_whole and self.refusal is None:
            line_end = self.data.find(b"\r\n", self._chunk_at, self._chunk_at + _MAX_CHUNK_LINE_BYTES)
            if line_end < 0:
                if len(self.data) - self._chunk_at >= _MAX_CHUNK_LINE_BYTES:
                    self.refusal = Refusal(400, "The line that begins a chunk is too long.")
                break
            digits = bytes(self.data[self._chunk_at : line_end]).partition(b";")[0].strip(b" \t")
            if not _CHUNK_SIZE.fullmatch(digits):
                self.is_whole = True  # malformed
                break
            size = int(digits, 16)
            if size == 0:
                self._look_for_trailers_end(line_end)
                break
            if not self._skip_chunk(line_end + 2, size):
                break
        if not self.is_whole and len(self.data) - self._body_at > _MAX_CHUNKED_BYTES:
            self.refusal = Refusal(413, f"The request's chunks have more than {_MAX_CHUNKED_BYTES} bytes.")

    def _skip_chunk(self, start: int, size: int) -> bool:
        """Go to the next chunk; return whether this one has arrived."""
        arrived = min(size, len(self.data) - start)
        if self._decoded + arrived > MAX_BODY_BYTES:
            self.is_whole = self.is_cut_short = True
            return False
        end = start + size
        if len(self.data) < end + 2:
            return False
        if self.data[end : end + 2] != b"\r\n":
            self.is_whole = True  # malformed
            return False
        self._decoded += size
        self._chunk_at = end + 2
        return True

    def _look_for_trailers_end(self, line_end: int) -> None:
        # The empty line that ends the trailers may follow the last chunk's line at once.
        end = self.data.find(b"\r\n\r\n", line_end, line_end + _MAX_TRAILER_BYTES)
        if end >= 0:
            self.is_whole = True
        elif len(self.data) - line_end >= _MAX_TRAILER_BYTES:
            self.refusal = Refusal(431, f"The request's trailers have more than {_MAX_TRAILER_BYTES} bytes.")
