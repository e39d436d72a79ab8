"""Answers as they come to be: a small one at once with its tag, a large one bit by bit.

The memory of a large answer does not follow its size: what has been made is sent before more is read.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any

import falcon

from gateway.http.answers import has, tag_of

MAX_SMALL_BYTES = 2 * 1024 * 1024
"""Up to this size an answer is made whole before it is sent."""

MAX_SECONDS = 300.0

_PIECE_BYTES = 200_000

_CSV = "text/csv"


def wants_csv(req: falcon.Request) -> bool:
    """Return whether the client prefers CSV to JSON."""
    return req.client_prefers((falcon.MEDIA_JSON, _CSV)) == _CSV


def send_parts(
    req: falcon.Request,
    resp: falcon.Response,
    parts: Iterator[bytes],
    opened: ExitStack,
    admit: Callable[[], Any],
) -> None:
    """Answer 200 with parts, or 304 to a client that has them all.

    opened: what the parts need while they are made; an answer that is sent bit by bit takes it over.
    admit: is called once before such an answer, and refuses it by raising a Problem.
    """
    content_type = f"{_CSV}; charset=utf-8; header=present" if wants_csv(req) else falcon.MEDIA_JSON
    # Answers belong to one actor, and each use of a copy asks whether it still holds.
    resp.set_header("Cache-Control", "private, no-cache")
    resp.set_header("Vary", "Accept, X-Actor-Subject, X-Actor-Roles, X-Actor-Orgs")
    made: list[bytes] = []
    size = 0
    for part in parts:
        made.append(part)
        size += len(part)
        if size > MAX_SMALL_BYTES:
            admit()
            resp.content_type = content_type
            resp.stream = _Stream(chain(made, parts), opened.pop_all())
            return
    body = b"".join(made)
    etag = tag_of(body)
    resp.etag = etag
    if has(req, etag):
        resp.status = 304
    else:
        resp.content_type = content_type
        resp.data = body


class _Stream:
    """A body that is made while it is sent, and lets go of what it needs when that has ended either way.

    If its making fails half-way, it is cut without its end, which HTTP clients report.
    """

    def __init__(self, parts: Iterator[bytes], opened: ExitStack) -> None:
        self._parts = parts
        self._opened = opened
        self._deadline = time.monotonic() + MAX_SECONDS

    def __iter__(self) -> Iterator[bytes]:
        with self._opened:  # which learns how it ended
            yield from self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        waiting: list[bytes] = []
        size = 0
        for part in self._parts:
            waiting.append(part)
            size += len(part)
            if size >= _PIECE_BYTES:
                if time.monotonic() > self._deadline:
                    raise TimeoutError(f"the client took longer than {MAX_SECONDS:.0f} s")
                yield b"".join(waiting)
                waiting, size = [], 0
        if waiting:
            yield b"".join(waiting)

    def close(self) -> None:
        """Let go."""
        self._opened.close()
