"""gunicorn's threaded worker with an end to every wait.

A thread gets a request only when all of it has arrived; until then the poller, which is the worker's main
thread, gathers its bytes, so that slow senders hold no thread. Slow readers of answers are bounded by a least
rate (pacing.py). What is refused here is a problem document (refusals.py). Health, readiness and metrics have
threads of their own.

This reaches into gunicorn: see tests/unit/test_gunicorn.py, which fails when what is used here changes. It
can be left out, `gunicorn --worker-class gthread ...`, behind a proxy that gathers requests and answers.
"""

import re
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import TConn, ThreadWorker

from gateway.access.middleware import REPEATED_HEADERS
from gateway.app import Application
from gateway.http.arrival import Arrival, Refusal
from gateway.http.pacing import Pacing
from gateway.http.refusals import refusal_bytes, refusal_of

# The kernel's end to one wait of a thread, for what the deadlines below do not see.
_MAX_SILENCE_SECONDS = 10

_RECEIVE_BYTES = 64 * 1024

# All requests that are being gathered together; beyond that the oldest have to go.
_MAX_GATHERED_BYTES = 64 * 1024 * 1024

_LINGER_SECONDS = 2.0
_MAX_LINGER_BYTES = 64 * 1024
_CHECK_SECONDS = 0.25

# These paths have threads of their own: nothing else can keep them from being answered.
_RESERVED = {
    re.compile(rb"[A-Z]+ /analytics/v1/status/healthz[ ?]"): 2,
    re.compile(rb"[A-Z]+ /(analytics/v1/status/readyz|metrics)[ ?]"): 4,
}


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Threads that no slow client can hold."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gathering: dict[TConn, Arrival] = {}
        self._lingering: dict[TConn, float] = {}
        self._pacing = Pacing()
        self._gathered_bytes = 0
        self._next_check = 0.0

    def load_wsgi(self) -> None:
        """Load the application and bound the writing of its answers."""
        super().load_wsgi()
        self._app: Application = self.wsgi  # type: ignore[has-type]  # gunicorn has no types
        self.wsgi = self._paced

    def run(self) -> None:
        """Serve until the stop."""
        try:
            super().run()
        finally:
            for pool in self._reserved.values():
                pool.shutdown(wait=False)

    def init_process(self) -> None:
        """Make the threads of the reserved paths, in the worker's own process."""
        self._reserved = {pattern: ThreadPoolExecutor(threads) for pattern, threads in _RESERVED.items()}
        super().init_process()

    # Gathering: the poller reads a request until it is whole.

    def enqueue_req(self, conn: TConn) -> None:
        """Gather the next request of a connection: a new one, or one that was kept alive."""
        if not conn.initialized:
            _limit(conn.sock)
            conn.init()
        now = time.monotonic()
        arrival = Arrival(now)
        self._gathering[conn] = arrival
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._read_more, conn))
        early = conn.parser.unreader.take_buffered()
        if early:
            self._add(conn, arrival, early)
        else:
            self._receive(conn, arrival)
        self._make_room()

    def _read_more(self, conn: TConn, _sock: socket.socket) -> None:
        arrival = self._gathering.get(conn)
        if arrival is not None:  # else it has just been dropped
            self._receive(conn, arrival)

    def _receive(self, conn: TConn, arrival: Arrival) -> None:
        try:
            piece = conn.sock.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if piece:
            self._add(conn, arrival, piece)
        else:
            self._drop(conn)

    def _add(self, conn: TConn, arrival: Arrival, piece: bytes) -> None:
        """Take bytes that have arrived; give the request to a thread, or refuse it, when it needs no more."""
        arrival.add(piece, time.monotonic())
        self._gathered_bytes += len(piece)
        if arrival.wants_continue:
            arrival.wants_continue = False
            with suppress(OSError):
                conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n", socket.MSG_DONTWAIT)
        if arrival.refusal:
            self._refuse(conn, arrival.refusal)
        elif arrival.is_whole:
            self._give_to_thread(conn, arrival)

    def _end_gathering(self, conn: TConn) -> None:
        self._gathered_bytes -= len(self._gathering.pop(conn).data)
        self.poller.unregister(conn.sock)

    def _give_to_thread(self, conn: TConn, arrival: Arrival) -> None:
        self._end_gathering(conn)
        conn.sock.setblocking(True)
        conn.data_ready = True
        unreader = conn.parser.unreader
        unreader.unread(bytes(arrival.data))
        unreader.is_cut_short = arrival.is_cut_short
        pool = next(
            (pool for pattern, pool in self._reserved.items() if pattern.match(arrival.data)), self.tpool
        )
        pool.submit(self.handle, conn).add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )

    def _refuse(self, conn: TConn, refusal: Refusal) -> None:
        self._end_gathering(conn)
        # A few hundred bytes fit into the connection's buffer; where they do not, nobody reads.
        conn.sock.setblocking(False)
        with suppress(OSError):
            conn.sock.send(refusal_bytes(refusal, self._app.correlation))
        self._linger(conn)

    def _drop(self, conn: TConn) -> None:
        """Close a connection that is being gathered, without a word."""
        self._end_gathering(conn)
        self._close(conn)

    def _close(self, conn: TConn) -> None:
        with suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def _make_room(self) -> None:
        """Let the oldest unfinished requests go where they hold too many connections or bytes."""
        while self._gathering and (
            self.nr_conns >= self.worker_connections or self._gathered_bytes > _MAX_GATHERED_BYTES
        ):
            self._drop(next(iter(self._gathering)))

    # Deadlines: looked at each time the poller comes round.

    def murder_pending(self) -> None:
        """End what has taken too long: arriving requests, answers that are read, closing connections."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_SECONDS
        for conn, arrival in list(self._gathering.items()):
            if arrival.data and arrival.deadline < now:
                self._refuse(conn, Refusal(408, "The request did not arrive in time."))
            elif not arrival.data and (arrival.deadline < now or self._leaves(arrival, now)):
                self._drop(conn)
        self._pacing.end_overdue(now)
        for conn, deadline in list(self._lingering.items()):
            if deadline < now:
                self._end_linger(conn)

    def _leaves(self, arrival: Arrival, now: float) -> bool:
        """Return whether a worker that stops waits no longer for the first byte of a request."""
        return not self.alive and arrival.began + _LINGER_SECONDS < now

    # Answers.

    def _paced(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        return self._pacing.pieces(self._app(environ, start_response), environ["gunicorn.socket"])

    def finish_request(self, conn: TConn, done: "Future[bool]") -> None:
        """Keep a connection for its next request, or close it when its client has read the answer."""
        if not done.cancelled() and done.exception() is None and done.result():
            super().finish_request(conn, done)
        else:
            self._linger(conn)

    def _linger(self, conn: TConn) -> None:
        """Send the end of the connection, and close when the client has closed or a short time has passed.

        Closing at once would throw away what it has not read yet. gunicorn waits for that in the poller.
        """
        conn.sock.setblocking(False)
        conn.lingered_bytes = 0
        self._lingering[conn] = time.monotonic() + _LINGER_SECONDS
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._read_rest, conn))
        except OSError:
            self._end_linger(conn)

    def _read_rest(self, conn: TConn, _sock: socket.socket) -> None:
        try:
            rest = conn.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            rest = b""
        conn.lingered_bytes += len(rest)
        if not rest or conn.lingered_bytes > _MAX_LINGER_BYTES:
            self._end_linger(conn)

    def _end_linger(self, conn: TConn) -> None:
        if self._lingering.pop(conn, None) is not None:
            self._close(conn)

    def handle_error(self, _req: Any, client: socket.socket, _addr: Any, error: Exception) -> None:
        """Answer what gunicorn itself refuses, and what failed outside the application."""
        with suppress(OSError):
            util.write_nonblock(client, refusal_bytes(refusal_of(error), self._app.correlation))


def _limit(sock: socket.socket) -> None:
    """Bound what the kernel does for a connection."""
    limit = struct.pack("ll", _MAX_SILENCE_SECONDS, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def prepare_request(_worker: Any, request: Any) -> None:
    """gunicorn's pre_request hook.

    It marks repeated headers, which gunicorn joins with a comma, and then nobody could see it.
    """
    mark = REPEATED_HEADERS.upper()
    request.headers = [header for header in request.headers if header[0] != mark]
    counts = Counter(name for name, _ in request.headers)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        request.headers.append((mark, ",".join(repeated)))
    if getattr(request.unreader, "is_cut_short", False):
        request.force_close()
    request._expected_100_continue = False  # sent when the head had arrived
