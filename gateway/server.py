"""gunicorn's threaded worker with an end to every wait, and its own refusals as problem documents."""

import socket
import struct
from http import HTTPStatus
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from gateway.access import REPEATED_HEADERS
from gateway.authorize import ACTOR_HEADERS
from gateway.problems import Problem

# A client may keep a thread this long with silence in the middle of a request or an answer.
CLIENT_SILENCE_SECONDS = 10

_TIMEVAL = struct.pack("ll", CLIENT_SILENCE_SECONDS, 0)
_ACTOR_HEADERS = {name.upper(): name for name in ACTOR_HEADERS}


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Threads that no slow client can hold for ever."""

    def enqueue_req(self, conn: Any) -> None:
        """Bound reads and writes in the kernel: gunicorn sets the socket's own timeout itself."""
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL)
        super().enqueue_req(conn)


def mark_repeated_headers(_worker: Any, request: Any) -> None:
    """gunicorn's pre_request hook: it joins repeated headers with a comma, and then nobody could tell."""
    names = [name for name, _ in request.headers]
    repeated = [shown for name, shown in _ACTOR_HEADERS.items() if names.count(name) > 1]
    mark = REPEATED_HEADERS.upper()
    request.headers = [header for header in request.headers if header[0] != mark]
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
