"""gunicorn's threaded worker with an end to every wait, its refusals as problem documents, and its log."""

import logging
import selectors
import socket
import struct
import time
from collections import Counter
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from gateway.access import REPEATED_HEADERS
from gateway.problems import Problem

# A client may keep a thread this long with silence in the middle of a request or an answer.
CLIENT_SILENCE_SECONDS = 10

# One that has been silent since before a thread was free may keep it this long.
_LEAST_WAIT_SECONDS = 0.2


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Threads that no slow client can hold for ever."""

    def enqueue_req(self, conn: Any) -> None:
        """Let the poller, not a thread, wait for a new connection's first byte."""
        if conn.initialized or conn.data_ready:
            conn.readable_since = time.monotonic()
            super().enqueue_req(conn)
            return
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + CLIENT_SILENCE_SECONDS
        self.pending_conns.append(conn)
        readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def handle(self, conn: Any) -> Any:
        """Bound reads and writes in the kernel: gunicorn sets the socket's own timeout itself.

        The time spent in the queue counts, or many silent clients would take their turns one after another.
        """
        waited_seconds = time.monotonic() - conn.readable_since
        _limit(
            conn.sock, socket.SO_RCVTIMEO, max(_LEAST_WAIT_SECONDS, CLIENT_SILENCE_SECONDS - waited_seconds)
        )
        _limit(conn.sock, socket.SO_SNDTIMEO, CLIENT_SILENCE_SECONDS)
        return super().handle(conn)


def _limit(sock: socket.socket, option: int, seconds: float) -> None:
    whole, part = divmod(int(seconds * 1_000_000), 1_000_000)
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, part))


def mark_repeated_headers(_worker: Any, request: Any) -> None:
    """gunicorn's pre_request hook: it joins repeated headers with a comma, and then nobody could tell."""
    mark = REPEATED_HEADERS.upper()
    request.headers = [header for header in request.headers if header[0] != mark]
    counts = Counter(name for name, _ in request.headers)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        request.headers.append((mark, ",".join(repeated)))


def write_problem(client: Any, status: int, _reason: str, message: str) -> None:
    """Answer what gunicorn refuses before the application sees it. In place of gunicorn.util.write_error."""
    detail = message if status < 500 else "The server failed."
    body = Problem(status, detail or HTTPStatus(status).phrase).body("")
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(client, head.encode("ascii") + body)


def install_problems() -> None:
    """Make gunicorn's refusals (bad request line, too long, too many headers) problem documents."""
    util.write_error = write_problem


def is_no_silent_client(record: logging.LogRecord) -> bool:
    """A filter for gunicorn's log, which takes each client that falls silent for an error of its own."""
    return record.exc_info is None or not isinstance(record.exc_info[1], BlockingIOError)


class ServerLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own messages. Of each request the application's line tells more, so none is made here."""

    def access(self, *_: Any) -> None:
        """Write nothing; without this gunicorn puts a line together and drops it, a twentieth of the time."""
