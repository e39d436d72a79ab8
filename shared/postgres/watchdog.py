"""Ends a wait for a server that is alive but silent.

It shuts the connection's socket down, which libpq reports at once as a lost connection.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg2
from psycopg2.extensions import connection


class Watchdog:
    """Shuts the sockets of connections whose deadline has passed. One thread for the whole process."""

    def __init__(self) -> None:
        self._deadlines: dict[connection, float] = {}
        self._lock = threading.Lock()
        self._pid = 0

    @contextmanager
    def limit(self, raw: connection, seconds: float) -> Iterator[None]:
        """Cut the connection if the block takes longer."""
        with self._lock:
            self._ensure_thread()
            self._deadlines[raw] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                self._deadlines.pop(raw, None)

    def change(self, raw: connection, seconds: float) -> None:
        """Give a connection that is limited another deadline, from now on."""
        with self._lock:
            if raw in self._deadlines:
                self._deadlines[raw] = time.monotonic() + seconds

    def _ensure_thread(self) -> None:
        # Threads do not survive a fork, so each process that connects starts its own.
        if self._pid != os.getpid():
            self._pid = os.getpid()
            threading.Thread(target=self._run, name="database-watchdog", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(0.2)
            now = time.monotonic()
            with self._lock:
                late = [raw for raw, deadline in self._deadlines.items() if deadline < now]
                for raw in late:
                    del self._deadlines[raw]
                    cut(raw)


def cut(raw: connection) -> None:
    """End whatever a thread waits for on a connection, by shutting its socket down."""
    with suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(raw.fileno())) as peer:
        peer.shutdown(socket.SHUT_RDWR)


watchdog = Watchdog()
