"""The gateway's use of PostgreSQL: pooled, bounded, one more try on a connection that had died idle."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from shared.db import Cursor, Database, Pool
from shared.errors import DatabaseBusy, DatabaseUnavailable
from shared.metrics import GatewayMetrics

T = TypeVar("T")

STATEMENT_SECONDS = 5.0
_LIMIT_SECONDS = STATEMENT_SECONDS + 2
_DEAD_WITHIN_SECONDS = 1.0
CONNECTION_WAIT_SECONDS = 2.0
POOL_SIZE = 4
"""Connections of each gunicorn worker. More requests than that wait their turn."""


class Reads:
    """Statements of the gateway, for any thread."""

    def __init__(self, database_url: str, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._pool = Pool(
            lambda: Database(
                database_url,
                application_name="gateway",
                statement_timeout_seconds=STATEMENT_SECONDS,
                lock_timeout_seconds=STATEMENT_SECONDS,
            ),
            POOL_SIZE,
        )

    def rows(self, statement: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Run a read and return its rows. Raises DatabaseUnavailable."""

        def fetch(database: Database) -> list[tuple[Any, ...]]:
            with database.query(time_limit_seconds=_LIMIT_SECONDS) as cur:
                cur.execute(statement, parameters)
                return cur.fetchall()

        return self._twice(fetch)

    def snapshot(self, read: Callable[[Cursor], T], *, time_limit_seconds: float | None = None) -> T:
        """Run several reads over one state of the database, perhaps twice. Raises DatabaseUnavailable."""
        limit = time_limit_seconds or _LIMIT_SECONDS

        def fetch(database: Database) -> T:
            with database.transaction(repeatable_read=True, read_only=True, time_limit_seconds=limit) as cur:
                return read(cur)

        return self._twice(fetch)

    def _twice(self, read: Callable[[Database], T]) -> T:
        with self._pool.lend(wait_seconds=CONNECTION_WAIT_SECONDS) as database:
            began = time.monotonic()
            try:
                return read(database)
            except DatabaseUnavailable as error:
                self._count()
                if not _found_dead(error, began):
                    raise
                return read(database)  # reading twice is harmless

    def transaction(self, work: Callable[[Cursor], T]) -> T:
        """Do the work in one transaction and return what it returns: all of it is committed, or nothing.

        The work may be done twice; what the first try did is then undone. Raises DatabaseUnavailable; if
        that was at the commit, it may have been committed all the same.
        """
        with self._pool.lend(wait_seconds=CONNECTION_WAIT_SECONDS) as database:
            try:
                return self._commit(database, work)
            except _NotCommitted:
                return self._commit(database, work)

    def _commit(self, database: Database, work: Callable[[Cursor], T]) -> T:
        began = time.monotonic()
        committing = False
        try:
            with database.transaction(time_limit_seconds=_LIMIT_SECONDS) as cur:
                done = work(cur)
                committing = True
        except DatabaseUnavailable as error:
            self._count()
            if committing or not _found_dead(error, began):
                raise
            raise _NotCommitted(str(error)) from error
        return done

    def _count(self) -> None:
        self._metrics.dependency_errors.labels(dependency="postgresql").inc()


def _found_dead(error: DatabaseUnavailable, began: float) -> bool:
    """Tell whether a connection had died idle, as a restart of the server leaves them in the pool.

    That shows at once. A server that is silent takes a whole limit, and asking it again another one.
    """
    return not isinstance(error, DatabaseBusy) and time.monotonic() - began < _DEAD_WITHIN_SECONDS


class _NotCommitted(DatabaseUnavailable):
    """The connection was dead before the commit; doing it again is safe."""
