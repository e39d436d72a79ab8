"""Clients that send or read a byte now and then, or never close: nobody else waits for them."""

import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from tests.support.fleet import Fleet, Process
from tests.support.places import TestDatabase
from tests.support.raw_http import (
    ACTOR_LINES,
    EVENT,
    HEALTH,
    ORG,
    POST,
    USAGE,
    dial,
    get,
    problem,
    raw,
    receive,
    validate,
)

MAX_HEAD_SECONDS = 10


@contextmanager
def dripping(
    gateway: Process, count: int, begin: bytes, *, every_seconds: float
) -> Iterator[list[socket.socket]]:
    """Open connections that send the beginning of a request, and then a byte now and then."""
    stop = threading.Event()
    with ExitStack() as opened:
        clients = [opened.enter_context(dial(gateway)) for _ in range(count)]
        for client in clients:
            client.sendall(begin)

        def drip() -> None:
            while not stop.wait(every_seconds):
                for client in clients:
                    try:
                        client.sendall(b"x")
                    except OSError:
                        continue  # closed by the server, which is what is wanted

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield clients
        finally:
            stop.set()
            thread.join()


def slowest_seconds(gateway: Process, requests: list[bytes], *, during_seconds: float) -> float:
    """Return how long the slowest of many answers took, all of them good."""
    slowest = 0.0
    end = time.monotonic() + during_seconds
    while time.monotonic() < end:
        for request in requests:
            began = time.monotonic()
            status, _, _ = raw(gateway, request)
            slowest = max(slowest, time.monotonic() - began)
            assert status in {200, 204}
        time.sleep(0.1)
    return slowest


HALF_HEAD = get(USAGE)[:-2] + b"X-More: "
HALF_BODY = POST + b"Content-Length: 900000\r\n\r\n["
HALF_CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n["


BEGINNINGS = {
    "the first line": b"G",
    "the head": HALF_HEAD,
    "a body": HALF_BODY,
    "chunks": HALF_CHUNKS,
}


@pytest.mark.parametrize("of", BEGINNINGS)
def test_two_hundred_clients_that_drip_a_byte_block_no_route(gateway: Process, of: str) -> None:
    with dripping(gateway, 200, BEGINNINGS[of], every_seconds=3):
        slowest = slowest_seconds(gateway, [get(USAGE), HEALTH, validate()], during_seconds=8)
    assert slowest < 2
    assert '"level": "error"' not in gateway.log.read_text()


def test_a_head_that_has_not_arrived_in_ten_seconds_is_a_408_whatever_still_comes(gateway: Process) -> None:
    began = time.monotonic()
    with dripping(gateway, 3, HALF_HEAD, every_seconds=1) as clients:
        for client in clients:
            client.settimeout(MAX_HEAD_SECONDS + 8)
            status, headers, body = receive(client)
            assert problem((status, headers, body))["status"] == 408
            assert headers["x-request-id"]
    assert MAX_HEAD_SECONDS - 1 < time.monotonic() - began < MAX_HEAD_SECONDS + 8


def test_a_body_has_ten_seconds_and_what_its_size_needs(gateway: Process) -> None:
    began = time.monotonic()
    small = POST + b"Content-Length: 20\r\n\r\n"
    with dripping(gateway, 1, small, every_seconds=2) as [client]:
        client.settimeout(30)
        assert problem(receive(client))["status"] == 408
    assert 9 < time.monotonic() - began < 20


def test_a_slow_but_steady_body_is_taken(gateway: Process) -> None:
    request = validate(EVENT.ljust(300_000))
    with dial(gateway) as client:
        for at in range(0, len(request), 20_000):
            client.sendall(request[at : at + 20_000])
            time.sleep(0.3)
        assert receive(client)[0] == 204


@pytest.mark.alone
def test_clients_that_never_close_hold_nobody_up(gateway: Process) -> None:
    with ExitStack() as opened:
        for _ in range(100):
            client = opened.enter_context(dial(gateway))
            client.sendall(get(USAGE))
        assert slowest_seconds(gateway, [get(USAGE), HEALTH], during_seconds=4) < 1


def fill_events(database: TestDatabase, count: int) -> None:
    with psycopg2.connect(database.owner_url) as owner, owner.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.usage_events (org_id, occurred_at, event_id, batch_id, received_at,"
            " model_id, status, latency_ms, input_tokens, output_tokens, cost_estimate_cents, metadata)"
            " SELECT %s, now() - interval '1 hour' + n * interval '1 ms', gen_random_uuid(), 1, now(),"
            " 'model', 'success', n, n, n, n, jsonb_build_object('n', repeat('x', 400))"
            " FROM generate_series(1, %s) AS n",
            (ORG, count),
        )
    owner.close()


def export_path(org_id: str = ORG) -> str:
    now = datetime.now(UTC)
    start, end = ((now + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ") for hours in (-2, 1))
    return f"/analytics/v1/orgs/{org_id}/incidents/export?start={start}&end={end}&maxRows=100000"


def test_slow_readers_of_exports_are_ended_and_others_are_answered_meanwhile(
    fleet: Fleet, database: TestDatabase
) -> None:
    fill_events(database, 60_000)
    [gateway] = fleet.start_ready("gateway", WEB_CONCURRENCY="1")
    with ExitStack() as opened:
        readers = []
        for _ in range(2):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            opened.enter_context(client)
            client.settimeout(30)
            client.connect(dial_address(gateway))
            client.sendall(get(export_path()))
            assert client.recv(1024).startswith(b"HTTP/1.1 200 OK")
            readers.append(client)
        status, headers, body = raw(gateway, get(export_path()))
        assert status == 429
        assert headers["retry-after"]
        assert "incident exports" in problem((status, headers, body))["detail"]
        assert "PostgreSQL" not in body.decode()
        other = str(uuid.uuid4())
        others = ACTOR_LINES.replace(ORG, other).replace("tester", "somebody-else")
        requests = [get(export_path(other), actor=others), get(USAGE), HEALTH]
        assert raw(gateway, get(export_path(other), actor=others))[0] == 200
        assert slowest_seconds(gateway, requests[1:], during_seconds=3) < 1
        began = time.monotonic()
        while raw(gateway, get(export_path()))[0] == 429:
            assert time.monotonic() - began < 40, "a slow reader is never ended"
            for reader in readers:
                reader.recv(4096)
            time.sleep(0.5)


def dial_address(gateway: Process) -> tuple[str, int]:
    with dial(gateway) as client:
        host, port = client.getpeername()
        return host, port
