"""Answers as JSON: encoded once, exact decimals, and not sent again to a client that has them."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import falcon
import msgspec

from shared.buckets import rfc3339

encode = msgspec.json.Encoder(enc_hook=str).encode
"""Writes JSON; what JSON has no type for is written as its text."""


def rfc3339_or_none(instant: datetime | None) -> str | None:
    """Return an instant in RFC 3339 with `Z`, None for None."""
    return None if instant is None else rfc3339(instant)


def send(req: falcon.Request, resp: falcon.Response, answer: Any, held: ExitStack | None = None) -> None:
    """Answer 200 with JSON and its ETag, or 304 to a client that names the same one.

    held: what the answer needs until it is sent; a 200 takes it over and closes it then.
    """
    body = encode(answer)
    etag = tag_of(body)
    resp.etag = etag
    # Answers belong to one actor, and each use of a copy asks whether it still holds.
    resp.set_header("Cache-Control", "private, no-cache")
    resp.set_header("Vary", "X-Actor-Subject, X-Actor-Roles, X-Actor-Orgs")
    if has(req, etag):
        resp.status = 304
        return
    resp.content_type = falcon.MEDIA_JSON
    if held is None:
        resp.data = body
    else:
        resp.set_stream(_Held(body, held.pop_all()), len(body))


class _Held:
    """A body that lets go of what it needed when it has been sent, or when nobody wants it any more."""

    def __init__(self, body: bytes, held: ExitStack) -> None:
        self._body = body
        self._held = held

    def __iter__(self) -> Iterator[bytes]:
        yield self._body

    def close(self) -> None:
        """Let go."""
        self._held.close()


def tag_of(body: bytes) -> str:
    """Return the tag of a body, which guards nothing: processors have an instruction for SHA-1."""
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()


def has(req: falcon.Request, etag: str) -> bool:
    """Return whether the client says it has the answer with this tag."""
    return not {"*", etag}.isdisjoint(req.if_none_match or ())
