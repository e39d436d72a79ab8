"""The probes of a worker: what they answer to whom, and what the metrics count of it. Over real sockets."""

import gzip
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress

import pytest
import structlog
from prometheus_client import CollectorRegistry

from shared import probe_server
from shared.metrics import RollupMetrics
from shared.probe_server import MAX_CONNECTIONS, start_probe_server


class Worker:
    """A probe server whose checks a test decides."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self.check: Callable[[], None] = lambda: None
        self.port = start_probe_server(0, RollupMetrics(CollectorRegistry()), self._found, self._checked)

    def _found(self) -> dict[str, str]:
        return self.faults

    def _checked(self) -> dict[str, str]:
        self.check()
        return self.faults

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def send(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes as they are; return status, headers and body."""
        with self.connect() as client:
            client.sendall(request)
            answer = b"".join(iter(lambda: client.recv(65_536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(status.split()[1]), headers, body

    def get(self, path: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        lines = "".join(f"{header}\r\n" for header in headers)
        return self.send(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode("latin-1"))

    def healthy_within(self, seconds: float) -> bool:
        began = time.monotonic()
        return self.get("/healthz")[0] == 200 and time.monotonic() - began < seconds


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_a_fault_is_named_and_counted_until_the_next_probe_finds_none(worker: Worker) -> None:
    worker.faults["postgresql"] = "connection refused"
    status, headers, body = worker.get("/readyz")
    assert (status, headers["Content-Type"]) == (503, "application/json")
    assert json.loads(body) == {"status": "failed", "faults": {"postgresql": "connection refused"}}
    assert b"analytics_readiness_failed 1.0" in worker.get("/metrics")[2]
    worker.faults.clear()
    assert worker.get("/readyz")[0] == 200
    assert b"analytics_readiness_failed 0.0" in worker.get("/metrics")[2]


def test_liveness_does_not_touch_readiness(worker: Worker) -> None:
    worker.faults["loop"] = "stands still"
    assert worker.get("/healthz")[0] == 503
    assert b"analytics_readiness_failed 0.0" in worker.get("/metrics")[2]


@pytest.mark.parametrize("path", ["/healthz", "/readyz?verbose=1", "/metrics"])
def test_head_is_answered_as_get_without_the_body(worker: Worker, path: str) -> None:
    status, headers, body = worker.get(path, method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /healthz/ HTTP/1.0\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"WEBSOCKET /metrics HTTP/1.1\r\n\r\n", 405),
        (b"\x00\xff\r\n\r\n", 400),
        (b"GET /healthz HTTP/2.0\r\n\r\n", 400),
        (b"GET  /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * 3000), 400),
        (b"GET /healthz HTTP/1.1\r\nX: %s\r\n\r\n" % (b"x" * 1_000_000), 431),
        (b"GET /healthz HTTP/1.1\r\n%s\r\n" % (b"X: y\r\n" * 100_000), 431),
    ],
)
def test_what_is_no_probe_is_refused_with_a_problem(
    worker: Worker, request_bytes: bytes, expected: int
) -> None:
    try:
        status, headers, body = worker.send(request_bytes)
    except ConnectionResetError:  # a client that is still sending may lose the refusal
        assert expected == 431
        return
    assert (status, headers["Content-Type"]) == (expected, "application/problem+json")
    problem = json.loads(body)
    assert problem["status"] == expected
    assert problem["type"].startswith("urn:problem:analytics:")
    assert headers.get("Allow") == ("GET, HEAD" if expected == 405 else None)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=x",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "text/plain;version=1e9",
        "\xff\xfe",
        ",;,;=",
        "text/plain; version=1.0.0; escaping=" + "x" * 5000,
    ],
)
def test_a_scrape_is_answered_whatever_it_accepts(worker: Worker, accept: str) -> None:
    status, headers, body = worker.get("/metrics", f"Accept: {accept}")
    assert status == 200
    assert b"analytics_build_info" in body
    assert headers["Content-Type"].isascii()
    assert headers["Content-Type"].isprintable()


def test_a_scrape_is_compressed_where_that_is_understood(worker: Worker) -> None:
    _, headers, body = worker.get("/metrics", "Accept-Encoding: deflate, gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert b"analytics_build_info" in gzip.decompress(body)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_check_that_raises_is_a_500_and_is_logged(worker: Worker, path: str) -> None:
    worker.faults = None  # type: ignore[assignment]  # dict(None) raises, as a check with a mistake would
    with structlog.testing.capture_logs() as lines:
        status, headers, body = worker.get(path)
    assert (status, headers["Content-Type"]) == (500, "application/problem+json")
    assert b"TypeError" not in body
    assert lines == [{"event": "a probe failed", "log_level": "error", "path": path, "exc_info": True}]


def test_a_check_that_raises_loses_the_readiness(worker: Worker) -> None:
    def fail() -> None:
        raise RuntimeError("a mistake")

    worker.check = fail
    assert worker.get("/readyz")[0] == 500
    assert b"analytics_readiness_failed 1.0" in worker.get("/metrics")[2]


def test_clients_that_reset_or_leave_are_not_worth_a_line(
    worker: Worker, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for request in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n", b"X" * 100_000):
        for _ in range(20):
            client = worker.connect()
            client.sendall(request)
            # Closing so resets the connection.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            worker.connect().close()
    assert worker.healthy_within(5)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_slow_clients_hold_nobody_up_and_are_cut(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_server, "MAX_SECONDS", 2)
    threads = threading.active_count()
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(worker.connect())) for _ in range(3 * MAX_CONNECTIONS)]
        began = time.monotonic()
        ended: set[socket.socket] = set()
        while len(ended) < len(clients):  # each sends a byte now and then, and so is never silent
            assert time.monotonic() - began < 60
            assert worker.healthy_within(5)
            assert threading.active_count() <= threads + 2
            for client in set(clients) - ended:
                try:
                    client.sendall(b"G")
                    client.settimeout(0.001)
                    if client.recv(1) == b"":
                        ended.add(client)
                except TimeoutError:
                    pass
                except OSError:
                    ended.add(client)


def test_slow_readers_of_a_large_scrape_are_cut(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_server, "MAX_SECONDS", 2)
    monkeypatch.setattr(probe_server, "exposition", lambda *_: (b"x" * 50_000_000, "text/plain"))
    with worker.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert client.recv(1)
        time.sleep(3)
        received = 0
        with suppress(ConnectionResetError):
            while data := client.recv(1_000_000):
                received += len(data)
        assert received < 50_000_000


def test_a_check_that_is_stuck_takes_one_thread_and_the_others_answer(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_server, "_CHECK_SECONDS", 2)
    released = threading.Event()

    def wait() -> None:
        released.wait(60)

    worker.check = wait
    threads = threading.active_count()
    with ExitStack() as stack:
        stack.callback(released.set)
        clients = [stack.enter_context(closing(worker.connect())) for _ in range(MAX_CONNECTIONS // 2)]
        for client in clients:
            client.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert worker.healthy_within(5)
        assert worker.get("/metrics")[0] == 200
        assert threading.active_count() <= threads + 2
        for client in clients:
            assert client.recv(1000).startswith(b"HTTP/1.1 503")
        assert b"analytics_readiness_failed 1.0" in worker.get("/metrics")[2]
    deadline = time.monotonic() + 30
    while worker.get("/readyz")[0] != 200:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("module", ["ingestor", "rollup_worker", "export_worker"])
def test_a_port_in_use_ends_a_worker_with_one_sentence(module: str) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", module],
            env={
                "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/db",
                "RABBITMQ_URL": "amqp://u:p@127.0.0.1:1/",
                "S3_ENDPOINT": "127.0.0.1:1",
                "S3_ACCESS_KEY": "k",
                "S3_SECRET_KEY": "s",
                "METRICS_PORT": str(port),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["event"] == f"cannot listen on port {port} (METRICS_PORT): Address already in use"
    assert "Traceback" not in done.stderr
