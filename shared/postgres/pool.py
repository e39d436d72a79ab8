"""Connections that threads share."""

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import DatabaseBusy
from shared.postgres.database import Database


class Pool:
    """At most `size` connections, lent to threads that wait a bounded time for one."""

    def __init__(self, make: Callable[[], Database], size: int) -> None:
        self._free: queue.LifoQueue[Database] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(make())

    @contextmanager
    def lend(self, *, wait_seconds: float) -> Iterator[Database]:
        """Lend a database. Raises DatabaseBusy when none came back within the wait."""
        try:
            database = self._free.get(timeout=wait_seconds)
        except queue.Empty:
            raise DatabaseBusy(f"all database connections were in use for {wait_seconds} s") from None
        try:
            yield database
        finally:
            self._free.put(database)
