"""One connection with its transactions, opened when first needed and again after it failed."""

import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection, cursor

from shared.postgres.connection import connect, translated
from shared.postgres.watchdog import cut, watchdog


class Database:
    """One connection, opened when first needed and again after it failed. For one thread at a time."""

    def __init__(
        self,
        url: str,
        *,
        application_name: str,
        statement_timeout_seconds: float = 60,
        lock_timeout_seconds: float = 15,
    ) -> None:
        self._url = url
        self._application_name = application_name
        self._statement_timeout_seconds = statement_timeout_seconds
        self._lock_timeout_seconds = lock_timeout_seconds
        self._raw: connection | None = None
        self._streams = 0

    @contextmanager
    def transaction(
        self,
        *,
        time_limit_seconds: float | None = None,
        repeatable_read: bool = False,
        read_only: bool = False,
    ) -> Iterator[cursor]:
        """Run the block in one transaction: commit at its end, roll back if it raises.

        time_limit_seconds: most time the whole transaction may take before its connection is cut,
        for servers that are silent; twice the statement limit by default.
        Raises DatabaseUnavailable, DatabaseBusy, DatabaseRejected (DuplicateRow is one), or AnalyticsError
        for a bug in the SQL. After DatabaseUnavailable it is unknown whether the commit took place.
        """
        raw = self._connection()
        limit = time_limit_seconds or 2 * self._statement_timeout_seconds
        try:
            with watchdog.limit(raw, limit):
                raw.set_session(
                    isolation_level="REPEATABLE READ" if repeatable_read else "READ COMMITTED",
                    readonly=read_only,
                )
                with raw.cursor() as cur:
                    yield cur
                raw.commit()
        except psycopg2.Error as error:
            self._give_up(raw)
            raise translated(error) from error
        except BaseException:
            self._give_up(raw)
            raise

    @contextmanager
    def query(self, *, time_limit_seconds: float | None = None) -> Iterator[cursor]:
        """Run single read statements, each its own snapshot, without the round trips of a transaction.

        Raises as transaction() does.
        """
        raw = self._connection()
        limit = time_limit_seconds or 2 * self._statement_timeout_seconds
        try:
            with watchdog.limit(raw, limit):
                raw.autocommit = True
                try:
                    with raw.cursor() as cur:
                        yield cur
                finally:
                    if not raw.closed:
                        raw.autocommit = False
        except psycopg2.Error as error:
            self._give_up(raw)
            raise translated(error) from error
        except BaseException:
            self.close()
            raise

    def wait_notified(self, listen: str, seconds: float) -> bool:
        """Wait for a notification, at most this long; return whether one came, or may have been missed.

        listen: a LISTEN statement. It is sent each time, so that a connection made anew listens too, and
        one that is lost is noticed. Nobody listened before that, so then this returns True at once.
        Raises as transaction() does.
        """
        was_listening = self._raw is not None and not self._raw.closed
        with self.query(time_limit_seconds=10) as cur:
            cur.execute(listen)
        if not was_listening:
            return True
        raw = self._connection()
        try:
            if not raw.notifies and select.select([raw], [], [], seconds)[0]:
                raw.poll()
        except psycopg2.Error as error:
            self.close()
            raise translated(error) from error
        came = bool(raw.notifies)
        raw.notifies.clear()
        return came

    def stream(
        self,
        statement: str,
        parameters: Mapping[str, Any],
        *,
        rows_at_once: int,
        time_limit_seconds: Callable[[], float],
        pause_seconds: Callable[[], float],
    ) -> Iterator[tuple[Any, ...]]:
        """Yield a read's rows within the transaction under way, some at a time.

        time_limit_seconds: asked each time how long the server may take. pause_seconds: the same of the
        caller after it. Raises psycopg2's errors, which transaction() translates.
        """
        self._streams += 1
        name = sql.Identifier(f"stream_{self._streams}")  # closed by the end of the transaction
        fetch = sql.SQL("FETCH FORWARD {} FROM {}").format(sql.Literal(rows_at_once), name)
        # One round trip where there are few rows. A statement ends with its semicolon.
        begin = sql.SQL("DECLARE {} NO SCROLL CURSOR FOR {} {}").format(name, sql.SQL(statement), fetch)
        with self._connection().cursor() as cur:
            self.limit(time_limit_seconds())
            cur.execute(begin, parameters)
            while True:
                rows = cur.fetchall()
                self.limit(pause_seconds())
                yield from rows
                if len(rows) < rows_at_once:
                    break
                self.limit(time_limit_seconds())
                cur.execute(fetch)

    def limit(self, seconds: float) -> None:
        """Let the transaction under way last so long from now, whatever it was given at its begin."""
        if self._raw is not None:
            watchdog.change(self._raw, seconds)

    def cut(self) -> None:
        """End what another thread is waiting for here: it gets DatabaseUnavailable at once."""
        raw = self._raw
        if raw is not None:
            cut(raw)

    def _connection(self) -> connection:
        if self._raw is None or self._raw.closed:
            self._raw = connect(
                self._url,
                application_name=self._application_name,
                statement_timeout_seconds=self._statement_timeout_seconds,
                lock_timeout_seconds=self._lock_timeout_seconds,
            )
        return self._raw

    def _give_up(self, raw: connection) -> None:
        """Roll back, and drop a connection that cannot."""
        try:
            with watchdog.limit(raw, 5):
                raw.rollback()
        except psycopg2.Error:
            self.close()
        else:
            if raw.info.transaction_status != TRANSACTION_STATUS_IDLE:
                self.close()

    def close(self) -> None:
        """Close the connection; the next use opens a new one."""
        if self._raw is not None:
            with suppress(psycopg2.Error):
                self._raw.close()
            self._raw = None
