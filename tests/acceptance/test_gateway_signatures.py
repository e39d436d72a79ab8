"""The proxy's proof at a real gateway: bytes over a socket, signed as docs/signatures.md says."""

import hashlib
import hmac
import time

from tests.support.fleet import Fleet
from tests.support.raw_http import ACTOR, EVENT, POST, USAGE, get, problem, raw


def test_only_what_the_proxy_signed_is_answered(fleet: Fleet) -> None:
    secrets = {"old": "o" * 32, "new": "n" * 32}
    keys = ",".join(f"{name}:{secret}" for name, secret in secrets.items())
    [gateway] = fleet.start_ready("gateway", ACTOR_SIGNATURE_KEYS=keys, WEB_CONCURRENCY="2")

    def signed(method: str, target: str, name: str, body: bytes = b"", at: float | None = None) -> str:
        """Return the two headers, put together as docs/signatures.md says."""
        now = str(int(time.time() if at is None else at))
        subject, roles, orgs = ACTOR.values()
        text = (
            f"actor-signature-v1\ntime={now}\nmethod={method}\ntarget={target}\nsubject={subject}\n"
            f"roles={roles}\norgs={orgs}\nbody={hashlib.sha256(body).hexdigest()}"
        )
        digest = hmac.new(secrets[name].encode(), text.encode(), "sha256").hexdigest()
        return f"X-Actor-Time: {now}\r\nX-Actor-Signature: {name}:{digest}\r\n"

    def refused(request: bytes) -> str:
        document = problem(raw(gateway, request))
        assert document["status"] == 401
        return str(document["type"]).removeprefix("urn:problem:analytics:signature-")

    assert refused(get(USAGE)) == "missing"
    for name in secrets:
        assert raw(gateway, get(USAGE, signed("GET", USAGE, name)))[0] == 200
    assert refused(get(USAGE + "&granularity=hour", signed("GET", USAGE, "new"))) == "mismatch"
    assert refused(get(USAGE, signed("GET", USAGE, "new", at=time.time() - 120))) == "wrong-time"
    proof = signed("GET", USAGE, "new")
    assert problem(raw(gateway, get(USAGE, proof + proof)))["status"] == 400

    path = "/analytics/v1/events/validate"
    proof = signed("POST", path, "new", EVENT)
    for body, status in ((EVENT, 204), (EVENT.replace(b'"m"', b'"M"'), 401), (EVENT + b" ", 401)):
        sized = POST + f"{proof}Content-Length: {len(body)}\r\n\r\n".encode() + body
        assert raw(gateway, sized)[0] == status
        middle = len(body) // 2
        chunks = b"".join(
            f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (body[:middle], body[middle:])
        )
        chunked = POST + f"{proof}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"
        assert raw(gateway, chunked)[0] == status
    large = b"[" * (2 * 1024 * 1024)
    sized = POST + f"{signed('POST', path, 'new', large)}Content-Length: {len(large)}\r\n\r\n".encode()
    assert refused(sized + large) == "body-too-large"
    with_body = f"{signed('GET', USAGE, 'new', b'{}')}Content-Length: 2\r\n"
    assert raw(gateway, get(USAGE, with_body) + b"{}")[0] == 200
    assert refused(get(USAGE, with_body) + b"[]") == "mismatch"

    assert raw(gateway, get("/analytics/v1/status/healthz", actor=""))[0] == 200
    metrics = gateway.get("/metrics").data.decode()
    assert 'analytics_signature_refusals_total{reason="missing"} 1.0' in metrics
    assert 'analytics_signature_refusals_total{reason="mismatch"} 6.0' in metrics
    assert gateway.stop() == 0
    output = gateway.log.read_text()
    assert '"ACTOR_SIGNATURE_KEYS": "old:***,new:***"' in output
    assert '"decision": "signature-mismatch"' in output
    assert not [secret for secret in secrets.values() if secret in output]
    assert not [text for text in ("start=2026", "costEstimateCents") if text in output], "query, body"
