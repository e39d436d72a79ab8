"""Requests as bytes over a socket, for what HTTP clients would not send."""

import json
import socket
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from tests.support.fleet import Process

ORG = str(uuid.uuid4())
USAGE = f"/analytics/v1/orgs/{ORG}/usage?start=2026-11-01T00:00:00Z&end=2026-11-02T00:00:00Z"
ROUTE = "/analytics/v1/orgs/{org_id}/usage"
ACTOR = {"X-Actor-Subject": "tester", "X-Actor-Roles": "admin", "X-Actor-Orgs": ORG}
ACTOR_LINES = "".join(f"{name}: {value}\r\n" for name, value in ACTOR.items())


def raw(gateway: Process, request: bytes, seconds: float = 20) -> tuple[int, dict[str, str], bytes]:
    """Send bytes and return the one answer's status, headers and body."""
    with dial(gateway) as client:
        client.settimeout(seconds)
        client.sendall(request)
        return receive(client)


def dial(gateway: Process) -> socket.socket:
    parts = urlsplit(gateway.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def receive(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    with client.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = {}
        while line := stream.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, stream.read(int(headers.get("content-length", 0)))


POST = (
    f"POST /analytics/v1/events/validate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{ACTOR_LINES}"
    "Content-Type: application/json\r\n"
).encode()


def get(path: str, more: str = "", actor: str = ACTOR_LINES) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{actor}{more}\r\n".encode("latin-1")


def problem(answer: tuple[int, dict[str, str], bytes]) -> Any:
    """Return the document of an answer that must be a problem."""
    status, headers, body = answer
    assert headers["content-type"] == "application/problem+json"
    document = json.loads(body)
    assert document["status"] == status
    assert document["type"].startswith("urn:problem:analytics:")
    return document


HEALTH = get("/analytics/v1/status/healthz", actor="")
EVENT = json.dumps(
    {
        "eventId": str(uuid.uuid4()), "orgId": ORG, "occurredAt": datetime.now(UTC).isoformat(),
        "modelId": "m", "status": "success", "latencyMs": 1, "inputTokens": 1, "outputTokens": 1,
        "costEstimateCents": 1,
    }
).encode()  # fmt: skip


def validate(body: bytes = EVENT) -> bytes:
    return POST + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
