"""The gateway's use of PostgreSQL: pooled, bounded, one more try on a connection that had died idle."""

from collections.abc import Mapping
from typing import Any

from shared.db import Database, Pool
from shared.errors import DatabaseBusy, DatabaseUnavailable
from shared.metrics import GatewayMetrics

STATEMENT_SECONDS = 5.0
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
        with self._pool.lend(wait_seconds=CONNECTION_WAIT_SECONDS) as database:
            try:
                return self._fetch(database, statement, parameters)
            except DatabaseBusy:
                self._count()
                raise
            except DatabaseUnavailable:
                # A server that restarted leaves dead connections in the pool. Reading twice is harmless.
                self._count()
                return self._fetch(database, statement, parameters)

    def _fetch(
        self, database: Database, statement: str, parameters: Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        with database.query(time_limit_seconds=STATEMENT_SECONDS + 2) as cur:
            cur.execute(statement, parameters)
            return cur.fetchall()

    def write(self, statement: str, parameters: Mapping[str, object]) -> None:
        """Run one statement in a transaction of its own. Raises DatabaseUnavailable."""
        with self._pool.lend(wait_seconds=CONNECTION_WAIT_SECONDS) as database:
            try:
                self._commit(database, statement, parameters)
            except _NotBegun:
                self._commit(database, statement, parameters)

    def _commit(self, database: Database, statement: str, parameters: Mapping[str, object]) -> None:
        executed = False
        try:
            with database.transaction(time_limit_seconds=STATEMENT_SECONDS + 2) as cur:
                cur.execute(statement, parameters)
                executed = True
        except DatabaseUnavailable as error:
            self._count()
            if executed or isinstance(error, DatabaseBusy | _NotBegun):
                raise
            raise _NotBegun(str(error)) from error

    def _count(self) -> None:
        self._metrics.dependency_errors.labels(dependency="postgresql").inc()


class _NotBegun(DatabaseUnavailable):
    """The connection was dead before anything could be committed; doing it again is safe."""
