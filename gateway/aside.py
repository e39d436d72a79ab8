"""A read that a second connection does meanwhile, of the same state of the database.

It helps, and nothing depends on it: whoever asked for it does the read where no connection was free at
once, or where that one failed.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from shared.errors import AnalyticsError
from shared.postgres import Cursor


class Aside:
    """A read that has begun in a thread of its own, unless no connection was free.

    begin: begins a transaction of another connection. Raises DatabaseBusy where none is free, and what
    Database.transaction() raises.
    """

    def __init__(
        self, begin: Callable[[], AbstractContextManager[Cursor]], read: Callable[[Cursor], Any]
    ) -> None:
        self._begin = begin
        self._read = read
        self._lock = threading.Lock()
        self._has_begun = False
        self._is_wanted = True
        self._rows: list[tuple[Any, ...]] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def rows(self) -> list[tuple[Any, ...]] | None:
        """Return its rows when they are there, None where the read has not begun or has failed."""
        with self._lock:
            self._is_wanted = self._has_begun
        if not self._is_wanted:
            return None  # a pooler, or a server that is hard to reach, may let it wait for long
        self._thread.join()
        return self._rows

    def _run(self) -> None:
        try:
            with self._begin() as cur:
                with self._lock:
                    if not self._is_wanted:
                        return
                    self._has_begun = True
                rows = self._read(cur)
        except AnalyticsError:
            return  # the same will be asked, and fail, on the connection that matters
        self._rows = rows
