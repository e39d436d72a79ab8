"""/healthz, /readyz and /metrics of a worker process, on a port of its own.

/healthz speaks of the process alone (its loop moves, its channel is open) and never of a dependency:
restarting the process does not repair a database. /readyz speaks of the dependencies.

One thread serves all clients, so that the slow ones cost a socket each and no more: there are at most
MAX_CONNECTIONS, a newcomer ends the oldest, and none lasts longer than MAX_SECONDS. A check runs in a thread
of its own, once for all who ask at the same time.
"""

import asyncio
import gzip
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import structlog
from prometheus_client.exposition import gzip_accepted

from shared.exposition import exposition
from shared.metrics import CommonMetrics
from shared.process import Parts

MAX_CONNECTIONS = 64
MAX_HEAD_BYTES = 16 * 1024
MAX_SECONDS = 10.0
"""The whole life of a connection, however busy its client is. Prometheus itself gives up after 10 s."""

_CHECK_SECONDS = 8.0
_LINGER_SECONDS = 1.0
_REQUEST_LINE = re.compile(r"([!-~]{1,32}) ([!-~]{1,2048}) HTTP/1\.[01]")

Check = Callable[[], Mapping[str, str]]
"""Returns the faults by part, such as {"postgresql": "connection refused"}; empty when all is well."""

T = TypeVar("T")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("probes")


@dataclass(frozen=True)
class _Answer:
    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self, *, with_body: bool) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (self.body if with_body else b"")


def _json(status: int, content_type: str, document: Mapping[str, Any]) -> _Answer:
    return _Answer(status, content_type, json.dumps(document).encode() + b"\n")


def _problem(status: int, detail: str) -> _Answer:
    title = HTTPStatus(status).phrase
    kind = f"urn:problem:analytics:{title.lower().replace(' ', '-')}"
    document = {"type": kind, "title": title, "status": status, "detail": detail}
    return _json(status, "application/problem+json", document)


class _Probes:
    """Answers requests. For the loop's thread alone."""

    def __init__(self, metrics: CommonMetrics, live: Check, ready: Check) -> None:
        self._metrics = metrics
        self._checks = {"/healthz": live, "/readyz": ready}
        self._running: dict[str, asyncio.Task[Mapping[str, str]]] = {}
        self._rendering = asyncio.Lock()
        self._connections: dict[asyncio.StreamWriter, None] = {}

    async def serve(self, listener: socket.socket) -> None:
        """Serve until the process ends."""
        server = await asyncio.start_server(self._converse, sock=listener, limit=MAX_HEAD_BYTES)
        await server.serve_forever()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = None
        if len(self._connections) > MAX_CONNECTIONS:
            next(iter(self._connections)).transport.abort()
        try:
            async with asyncio.timeout(MAX_SECONDS):
                await self._exchange(reader, writer)
        except (OSError, EOFError):  # a timeout is an OSError too
            pass  # the client's own affair: it left, or took too long
        except Exception:  # noqa: BLE001  logged, and the next client is served all the same
            _log.exception("a probe could not be answered")
        finally:
            self._connections.pop(writer)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request and answer it."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.LimitOverrunError:
            answer, method = _problem(431, f"The request's head has more than {MAX_HEAD_BYTES} bytes."), ""
        else:
            answer, method = await self._answer(head)
        writer.transport.set_write_buffer_limits(0)  # so that drain waits for the last byte
        writer.write(answer.encoded(with_body=method != "HEAD"))
        await writer.drain()
        writer.write_eof()
        # Closing with unread bytes would reset the connection, and the client might lose its answer.
        async with asyncio.timeout(_LINGER_SECONDS):
            while await reader.read(MAX_HEAD_BYTES):
                pass

    async def _answer(self, head: str) -> tuple[_Answer, str]:
        """Return the answer to a request and its method."""
        request_line, *lines = head.split("\r\n")
        request = _REQUEST_LINE.fullmatch(request_line)
        if request is None:
            return _problem(400, "The request line cannot be read."), ""
        method, path = request[1], request[2].partition("?")[0]
        if path not in {*self._checks, "/metrics"}:
            return _problem(404, "Here are /healthz, /readyz and /metrics."), method
        if method not in {"GET", "HEAD"}:
            refused = _problem(405, "GET and HEAD are answered here.")
            return _Answer(405, refused.content_type, refused.body, (("Allow", "GET, HEAD"),)), method
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        try:
            return await (self._scrape(headers) if path == "/metrics" else self._probe(path)), method
        except Exception:  # noqa: BLE001  a check is anybody's code; its mistake is answered and logged
            _log.exception("a probe failed", path=path)
            return _problem(500, "The probe failed; the log has the reason."), method

    async def _probe(self, path: str) -> _Answer:
        """Run a check, or wait for the one that runs already."""
        if path not in self._running:
            task = asyncio.create_task(_in_thread(self._checks[path]))
            self._running[path] = task
            task.add_done_callback(lambda _task: self._running.pop(path))
        faults: Mapping[str, str] = {"probe": f"the check has not answered for {_CHECK_SECONDS:.0f} s"}
        try:
            with suppress(TimeoutError):
                faults = await asyncio.wait_for(asyncio.shield(self._running[path]), _CHECK_SECONDS)
        finally:
            if path == "/readyz":
                self._metrics.readiness_failed.set(bool(faults))
        document = {"status": "failed" if faults else "ok", "faults": dict(faults)}
        return _json(503 if faults else 200, "application/json", document)

    async def _scrape(self, headers: Mapping[str, str]) -> _Answer:
        async with self._rendering:
            accept = headers.get("accept")
            body, content_type = await _in_thread(lambda: exposition(self._metrics.registry, accept))
        if not gzip_accepted(headers.get("accept-encoding", "")):
            return _Answer(200, content_type, body)
        compressed = await _in_thread(lambda: gzip.compress(body, compresslevel=1))
        return _Answer(200, content_type, compressed, (("Content-Encoding", "gzip"),))


async def _in_thread(work: Callable[[], T]) -> T:
    """Wait for work in a daemon thread: unlike those of asyncio's executor it does not hold up the exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # work's own result, None included

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  it is raised where the work is awaited
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    threading.Thread(target=run, name="probe", daemon=True).start()
    return await done


def start_probe_server(
    port: int, metrics: CommonMetrics, live: Check, ready: Check, parts: Parts | None = None
) -> int:
    """Serve the probes from a daemon thread on all interfaces; return the port.

    port: METRICS_PORT; 0 takes any that is free. One that cannot be had ends the process with exit code 1.
    parts: those of the process, so that the server's end is theirs.
    """
    try:
        listener = socket.create_server(("", port), backlog=MAX_CONNECTIONS)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        _log.critical(f"cannot listen on port {port} (METRICS_PORT): {reason}")
        raise SystemExit(1) from None

    probes = _Probes(metrics, live, ready)

    def serve() -> None:
        asyncio.run(probes.serve(listener))

    if parts:
        parts.start("probe-server", serve, until_exit=True)
    else:
        threading.Thread(target=serve, name="probe-server", daemon=True).start()
    number: int = listener.getsockname()[1]
    return number
