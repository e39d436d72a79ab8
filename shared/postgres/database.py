"""One connection with its transactions, opened when first needed and again after it failed."""

import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
import psycopg2.errors as pg_errors
from psycopg2 import sql
from psycopg2.extensions import BYTES, TRANSACTION_STATUS_IDLE, connection, cursor, register_type

from shared.errors import AnalyticsError, DatabaseUnavailable, NumberTooLarge
from shared.postgres.connection import connect, refuses_writes, translated
from shared.postgres.watchdog import cut, watchdog
from shared.statements import bare, load_statements

_SQL = bare(load_statements("session.sql"))

_LIMITS = " ".join(
    _SQL[name] for name in ("statement_timeout", "lock_timeout", "idle_timeout", "timezone", "jit")
)
"""What each transaction sets, in the message that begins it: a pooler gives the next one another session."""

Beginning = tuple[str, Mapping[str, Any]]
"""What else a transaction sets in the message that begins it: SET LOCAL statements and their parameters."""


class Database:
    """One connection, opened when first needed and again after it failed. For one thread at a time.

    A pooler of transactions may stand before the server: nothing is expected of the session but what its
    transaction has set.
    """

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
        self._limits = {
            "statement_timeout_ms": round(statement_timeout_seconds * 1000),
            "lock_timeout_ms": round(lock_timeout_seconds * 1000),
        }
        self._written_limits = ""
        self._raw: connection | None = None
        self._can_listen = False
        self._streams = 0

    @contextmanager
    def transaction(
        self,
        *,
        time_limit_seconds: float | None = None,
        repeatable_read: bool = False,
        read_only: bool = False,
        first: str = "",
        beginning: Beginning | None = None,
    ) -> Iterator[cursor]:
        """Run the block in one transaction: commit at its end, roll back if it raises.

        time_limit_seconds: most time the whole transaction may take before its connection is cut,
        for servers that are silent; twice the statement limit by default. beginning: what else it sets.
        first: a statement without parameters that is sent with the begin, whose rows the block's cursor has.
        Raises DatabaseUnavailable, DatabaseBusy, DatabaseRejected (DuplicateRow is one), or AnalyticsError
        for a bug in the SQL. After DatabaseUnavailable it is unknown whether the commit took place.
        """
        begin = [_SQL["begin"]]
        if repeatable_read:
            begin.append(_SQL["repeatable_read"])
        if read_only:
            begin.append(_SQL["read_only"])
        with self._using(time_limit_seconds) as raw:
            with raw.cursor() as cur:
                cur.execute(" ".join([*begin, self._settings(cur, beginning), first]))
                yield cur
            _require_writable(raw)
            _require_whole(raw)
            _commit(raw)

    @contextmanager
    def query(
        self, *, time_limit_seconds: float | None = None, beginning: Beginning | None = None
    ) -> Iterator[cursor]:
        """Run single read statements, each its own snapshot, without the round trips of a transaction.

        beginning: what else each of them sets. Raises as transaction() does.
        """
        with self._using(time_limit_seconds) as raw, raw.cursor(cursor_factory=_LimitedCursor) as cur:
            cur.limits = self._settings(cur, beginning).encode()
            yield cur
            _require_writable(raw)
            _require_whole(raw)

    def _settings(self, cur: cursor, beginning: Beginning | None) -> str:
        """Return what a transaction sets: the limits, and what else."""
        limits = self._limits_in_sql(cur)
        return limits if beginning is None else f"{limits} {cur.mogrify(*beginning).decode()}"

    @contextmanager
    def _using(self, time_limit_seconds: float | None) -> Iterator[connection]:
        """Lend the connection for a transaction, which has ended afterwards; drop it where that is in doubt.

        Raises our errors for the driver's.
        """
        raw = self._connection()
        try:
            with watchdog.limit(raw, time_limit_seconds or 2 * self._statement_timeout_seconds):
                yield raw
        except psycopg2.Error as error:
            self._give_up(raw)
            if isinstance(error, pg_errors.ReadOnlySqlTransaction):
                self.close()  # another host may take writes
            raise translated(error) from error
        except BaseException:
            self._give_up(raw)
            raise

    def wait_notified(self, listen: str, seconds: float) -> bool:
        """Wait for a notification, at most this long; return whether one came, or may have been missed.

        listen: a LISTEN statement. It is sent each time, so that a connection made anew listens too, and
        one that is lost is noticed. Nobody listened before that, so then this returns True at once. Behind a
        pooler nothing can be heard: it is not sent, and this waits.
        Raises as transaction() does.
        """
        was_connected = self._raw is not None and not self._raw.closed
        with self.query(time_limit_seconds=10) as cur:
            raw = cur.connection
            if not was_connected or not self._can_listen:
                cur.execute(_SQL["session"])
                self._can_listen = cur.fetchone() == (raw.info.backend_pid,)
            if self._can_listen:
                cur.execute(listen)
        if not was_connected:
            return True
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
        as_bytes: bool = False,
        undone_if_too_large: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield a read's rows within the transaction under way, some at a time.

        time_limit_seconds: asked each time how long the server may take. pause_seconds: the same of the
        caller after it. as_bytes: leave texts in UTF-8. undone_if_too_large: raise NumberTooLarge for a
        number that does not fit, and let the transaction go on as if this had not been asked for.
        Raises psycopg2's errors, which transaction() translates.
        """
        self._streams += 1
        name = sql.Identifier(f"stream_{self._streams}")  # closed by the end of the transaction
        fetch = sql.SQL("FETCH FORWARD {} FROM {}").format(sql.Literal(rows_at_once), name)
        # One round trip where there are few rows. A statement ends with its semicolon.
        begin = sql.SQL("{} DECLARE {} NO SCROLL CURSOR FOR {} {}").format(
            sql.SQL("SAVEPOINT before_sums;" if undone_if_too_large else ""), name, sql.SQL(statement), fetch
        )
        assert self._raw is not None  # noqa: S101  the transaction's
        with self._raw.cursor() as cur:
            if as_bytes:
                register_type(BYTES, cur)
            self.limit(time_limit_seconds())
            try:
                cur.execute(begin, parameters)
            except pg_errors.NumericValueOutOfRange as error:
                if not undone_if_too_large:
                    raise
                cur.execute("ROLLBACK TO SAVEPOINT before_sums")
                raise NumberTooLarge from error
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

    def _limits_in_sql(self, cur: cursor) -> str:
        if not self._written_limits:
            self._written_limits = cur.mogrify(_LIMITS, self._limits).decode()
        return self._written_limits

    def _connection(self) -> connection:
        if self._raw is not None and refuses_writes(self._raw):
            self.close()
        if self._raw is None or self._raw.closed:
            self._raw = connect(self._url, application_name=self._application_name)
        return self._raw

    def _give_up(self, raw: connection) -> None:
        """Roll back, and drop a connection that cannot."""
        try:
            if raw.info.transaction_status != TRANSACTION_STATUS_IDLE:
                with watchdog.limit(raw, 5), raw.cursor() as cur:
                    cur.execute(_SQL["roll_back"])
        except psycopg2.Error:
            self.close()
        else:
            if raw.info.transaction_status != TRANSACTION_STATUS_IDLE or refuses_writes(raw):
                self.close()

    def close(self) -> None:
        """Close the connection; the next use opens a new one."""
        if self._raw is not None:
            with suppress(psycopg2.Error):
                self._raw.close()
            self._raw = None


class _LimitedCursor(cursor):
    """Runs each statement in a transaction of its own, with the limits in the same message."""

    limits = b""

    def execute(self, query: str | bytes | sql.Composable, parameters: Any = None) -> None:
        super().execute(self.limits + b" " + self.mogrify(query, parameters))


def _require_writable(raw: connection) -> None:
    """Raise DatabaseUnavailable where what was read may be old, since the primary has moved."""
    if refuses_writes(raw):
        raise DatabaseUnavailable("the server has become read-only: another may be the primary now")


def _require_whole(raw: connection) -> None:
    """Raise AnalyticsError where a Citus cluster lost part of a statement's rows: it only warns of that."""
    for notice in raw.notices:
        if "could not find the intermediate result" in notice:
            raw.notices.clear()
            raise AnalyticsError(" ".join(notice.split()))


def _commit(raw: connection) -> None:
    """Commit. Raises DatabaseUnavailable where a synchronous standby has not confirmed that.

    Whoever cancels that wait lets the server report success, with a warning; it gives none otherwise.
    """
    raw.notices.clear()
    with raw.cursor() as cur:
        cur.execute(_SQL["commit"])
        if cur.statusmessage != "COMMIT":
            raise AnalyticsError("committed a transaction that had failed")
    if raw.notices:
        raise DatabaseUnavailable(" ".join(raw.notices[-1].split()))
