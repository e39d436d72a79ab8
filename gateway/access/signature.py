"""The proxy's proof: where ACTOR_SIGNATURE_KEYS is set, only what is signed is believed.

docs/signatures.md has the form, the rules for proxies, a helper for them and a test vector.
"""

import hashlib
import hmac
import io
import math
import re
from collections.abc import Sequence

import falcon

from gateway.access.authorize import ACTOR_HEADERS
from gateway.http.arrival import MAX_BODY_BYTES
from gateway.http.problems import Problem
from shared.clock import Clock
from shared.metrics import GatewayMetrics
from shared.settings import SignatureKey

SIGNATURE_HEADERS = ("X-Actor-Time", "X-Actor-Signature")

TOLERANCE_SECONDS = 60
"""How far X-Actor-Time may be from the gateway's clock, both ways. So long a request can be sent again."""

_TIME = re.compile(r"[1-9][0-9]{0,11}", re.ASCII)
_SIGNATURE = re.compile(r"([A-Za-z0-9_.-]{1,32}):([0-9a-f]{64})", re.ASCII)
_ACTOR_LINES = ("subject", "roles", "orgs")


def signed_text(*, time: str, method: str, target: str, actor: Sequence[str | None], body: bytes) -> bytes:
    """Return what is signed: eight lines, of which no two different requests have the same.

    time: X-Actor-Time as sent. target: path and query as the request line has them. actor: the values of
    ACTOR_HEADERS, None for one that is absent, which is not the same as an empty one. body: its bytes as
    sent, after Transfer-Encoding and before Content-Encoding is undone. Raises ValueError for a line break.
    """
    lines = ["actor-signature-v1", f"time={time}", f"method={method}", f"target={target}"]
    for name, value in zip(_ACTOR_LINES, actor, strict=True):
        # A header's value begins and ends without blanks (RFC 9110, 5.5), whatever the server leaves there.
        lines.append(name if value is None else f"{name}=" + value.strip(" \t"))
    lines.append(f"body={hashlib.sha256(body).hexdigest()}")
    if any("\n" in line for line in lines):
        raise ValueError("a line break in what is signed")
    return "\n".join(lines).encode("latin-1")


class Signatures:
    """Refuses what the proxy has not signed. Without keys it looks at nothing."""

    def __init__(self, keys: Sequence[SignatureKey], clock: Clock, metrics: GatewayMetrics) -> None:
        self._secrets = {key.name: key.secret for key in keys}
        self._clock = clock
        self._metrics = metrics
        self.headers: Sequence[str] = SIGNATURE_HEADERS if keys else ()
        """The headers that are read here."""

    def check(self, req: falcon.Request) -> None:
        """Raise Problem 401 unless the request is signed. Its body is read, and can be read again."""
        if not self._secrets:
            return
        given = {name: req.get_header(name) for name in SIGNATURE_HEADERS}
        absent = [name for name, value in given.items() if not value]
        if absent:
            raise self._refusal(req, "missing", f"{' and '.join(absent)} must be given by the proxy.")
        time, signature = (value or "" for value in given.values())
        secret, digest = self._read(req, time, signature)
        body = req.stream.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            detail = f"The body has more than {MAX_BODY_BYTES} bytes; the signature of more is not checked."
            raise self._refusal(req, "body-too-large", detail)
        try:
            text = signed_text(
                time=time,
                method=req.method,
                target=req.env["RAW_URI"],
                actor=[req.get_header(name) for name in ACTOR_HEADERS],
                body=body,
            )
        except ValueError:  # no server lets one through
            raise self._refusal(req, "malformed", "The request has a line break in what is signed.") from None
        if not hmac.compare_digest(hmac.digest(secret, text, "sha256"), digest):
            detail = "X-Actor-Signature is not of this time, method, target, actor and body under its key."
            raise self._refusal(req, "mismatch", detail)
        req.stream = io.BytesIO(body)

    def _read(self, req: falcon.Request, time: str, signature: str) -> tuple[bytes, bytes]:
        """Return the secret that a signature names, and its digest; all that needs no body is checked."""
        match = _SIGNATURE.fullmatch(signature)
        if match is None:
            detail = "X-Actor-Signature must be a key's name, a colon and 64 hexadecimal digits (lower case)."
            raise self._refusal(req, "malformed", detail)
        if not _TIME.fullmatch(time):
            detail = "X-Actor-Time must be seconds since 1970 in decimal digits."
            raise self._refusal(req, "malformed", detail)
        secret = self._secrets.get(match[1])
        if secret is None:
            raise self._refusal(req, "unknown-key", "X-Actor-Signature names a key that is not live.")
        late_seconds = self._clock().timestamp() - int(time)
        if abs(late_seconds) > TOLERANCE_SECONDS:
            side = "behind" if late_seconds > 0 else "ahead of"
            detail = (
                f"X-Actor-Time is {math.ceil(abs(late_seconds))} s {side} the gateway's clock;"
                f" at most {TOLERANCE_SECONDS} s are allowed."
            )
            raise self._refusal(req, "wrong-time", detail)
        return secret, bytes.fromhex(match[2])

    def _refusal(self, req: falcon.Request, reason: str, detail: str) -> Problem:
        """Count a refusal and return it. The reason is the same in the metric, the log and the answer."""
        self._metrics.signature_refusals.labels(reason=reason).inc()
        req.context.decision = f"signature-{reason}"
        return Problem(
            401, detail, slug=f"signature-{reason}", headers={"WWW-Authenticate": "Actor-Signature"}
        )
