"""Request bodies: JSON with its media type, in bounded size, with no key twice."""

import json
from typing import Any

import falcon

from gateway.http.problems import Fault, Problem


def read_body(req: falcon.Request, *, max_bytes: int) -> bytes:
    """Return the body, or a byte more than max_bytes of it where it is longer.

    Raises Problem 415 unless Content-Type is application/json, with parameters or without.
    """
    media_type = (req.content_type or "").partition(";")[0].strip(" \t").lower()
    if media_type != falcon.MEDIA_JSON:
        raise Problem(
            415,
            f"The body must be JSON and say so: Content-Type: {falcon.MEDIA_JSON}.",
            headers={"Accept": falcon.MEDIA_JSON},
        )
    return req.stream.read(max_bytes + 1)


def read_object(req: falcon.Request, *, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object of a body. Raises Problem 400, 413 or 415."""
    body = read_body(req, max_bytes=max_bytes)
    if len(body) > max_bytes:
        raise Problem(413, f"The body has more than {max_bytes} bytes.")
    try:
        found = json.loads(body.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Problem.invalid([Fault(field="", reason=f"the body is no JSON object: {error}")]) from error
    if not isinstance(found, dict):
        raise Problem.invalid([Fault(field="", reason="the body is no JSON object")])
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found
