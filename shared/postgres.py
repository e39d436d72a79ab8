"""The border to PostgreSQL: connections that never wait without end, and errors in our own words.

The server's limits (statement, lock, idle transaction) end slow work; TCP's end dead peers; and a
watchdog ends a wait for a server that is alive but silent, by shutting the connection's socket
down, which libpq reports at once as a lost connection.
"""

import os
import queue
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import psycopg2
import psycopg2.errors as pg_errors
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection, cursor, parse_dsn

from shared.errors import AnalyticsError, DatabaseBusy, DatabaseRejected, DatabaseUnavailable, DuplicateRow

_BUSY = (
    pg_errors.QueryCanceled,
    pg_errors.LockNotAvailable,
    pg_errors.DeadlockDetected,
    pg_errors.SerializationFailure,
)
_UNAVAILABLE = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    pg_errors.ReadOnlySqlTransaction,  # a standby: the primary moved
    pg_errors.InFailedSqlTransaction,
)


_CHOICES = {
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
    "gssencmode": {"disable", "prefer", "require"},
    "channel_binding": {"disable", "prefer", "require"},
    "sslnegotiation": {"postgres", "direct"},
    "load_balance_hosts": {"disable", "random"},
    "target_session_attrs": {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"},
}
"""Options of libpq that it checks only when it connects."""


def check_url(url: str) -> None:
    """Raise ValueError, which shows no value, where libpq would refuse the URL. Connects to nothing."""
    try:
        found = parse_dsn(url)
    except psycopg2.ProgrammingError as error:
        unknown = re.search(r'invalid URI query parameter: "(\w{1,63})"', str(error), re.ASCII)
        what = (
            f"names {unknown[1]}, which is no parameter of libpq" if unknown else "is not a URL libpq reads"
        )
        raise ValueError(what) from None
    hosts, ports = found.get("host", "").split(","), found.get("port", "5432").split(",")
    if not all(
        port == "" or (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65_535) for port in ports
    ):
        raise ValueError("has a port that is not a whole number from 1 to 65535")
    if len(ports) not in {1, len(hosts)}:
        raise ValueError(f"names {len(ports)} ports for {len(hosts)} hosts")
    for name, choices in _CHOICES.items():
        if found.get(name, min(choices)) not in choices:
            raise ValueError(f"has an impossible {name}; possible are {', '.join(sorted(choices))}")


def connect(
    url: str,
    *,
    application_name: str,
    statement_timeout_seconds: float,
    lock_timeout_seconds: float,
) -> connection:
    """Open a connection in UTC with limits on every wait. Raises DatabaseUnavailable."""
    options = {
        "timezone": "UTC",
        "statement_timeout": f"{statement_timeout_seconds * 1000:.0f}",
        "lock_timeout": f"{lock_timeout_seconds * 1000:.0f}",
        "idle_in_transaction_session_timeout": "60000",
        # Plans are made for the values at hand anyway; compiling them costs more than it saves.
        "jit": "off",
    }
    try:
        return psycopg2.connect(
            url,
            application_name=application_name,
            connect_timeout=5,
            keepalives=1,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=15_000,
            options=" ".join(f"-c {name}={value}" for name, value in options.items()),
        )
    except psycopg2.Error as error:
        raise _translated(error) from error


def _translated(error: psycopg2.Error) -> AnalyticsError:
    """Say in our words what went wrong; the driver's own message stays in the text."""
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, _BUSY):
        return DatabaseBusy(message)
    # Without a code of the server's it is libpq that gave up, such as on a connection cut within a COPY.
    if isinstance(error, _UNAVAILABLE) or (type(error) is psycopg2.DatabaseError and error.pgcode is None):
        return DatabaseUnavailable(message)
    if isinstance(error, pg_errors.UniqueViolation):
        return DuplicateRow(message, error.diag.table_name)
    if isinstance(error, psycopg2.DataError | psycopg2.IntegrityError):
        return DatabaseRejected(message)
    return AnalyticsError(message)


class _Watchdog:
    """Shuts the sockets of connections whose deadline has passed. One thread for the whole process."""

    def __init__(self) -> None:
        self._deadlines: dict[connection, float] = {}
        self._lock = threading.Lock()
        self._pid = 0

    @contextmanager
    def limit(self, raw: connection, seconds: float) -> Iterator[None]:
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
                    _cut(raw)


def _cut(raw: connection) -> None:
    """End whatever a thread waits for on a connection, by shutting its socket down."""
    with suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(raw.fileno())) as peer:
        peer.shutdown(socket.SHUT_RDWR)


_watchdog = _Watchdog()

Cursor = cursor
"""What transaction() and query() hand out: psycopg2's cursor."""


Row = dict[str, Any]
"""A row's values by column name."""


def fetch_rows(cur: Cursor, statement: str, parameters: Mapping[str, object] | None = None) -> list[Row]:
    """Run a statement and return its rows."""
    cur.execute(statement, parameters)
    names = [column.name for column in cur.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cur.fetchall()]


class Sink(Protocol):
    """Takes the bytes of a COPY, a row at a time."""

    def write(self, data: bytes, /) -> int: ...


def copy_out(cur: Cursor, statement: str, parameters: Mapping[str, Any], sink: Sink) -> int:
    """Run a `COPY (...) TO STDOUT` into a sink and return how many rows it had, its header not counted.

    COPY takes no bind parameters on the wire, so they are quoted here by the driver. If the sink raises,
    that error passes on and the connection is dropped, since the server is in the middle of sending.
    """
    try:
        cur.copy_expert(cur.mogrify(statement, parameters), sink)
    except BaseException:
        cur.connection.close()
        raise
    return cur.rowcount


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
        for servers that are silent; twice the statement limit unless told.
        Raises DatabaseUnavailable, DatabaseBusy, DatabaseRejected (DuplicateRow is one), or AnalyticsError
        for a bug in the SQL. After DatabaseUnavailable it is unknown whether the commit took place.
        """
        raw = self._connection()
        limit = time_limit_seconds or 2 * self._statement_timeout_seconds
        try:
            with _watchdog.limit(raw, limit):
                raw.set_session(
                    isolation_level="REPEATABLE READ" if repeatable_read else "READ COMMITTED",
                    readonly=read_only,
                )
                with raw.cursor() as cur:
                    yield cur
                raw.commit()
        except psycopg2.Error as error:
            self._give_up(raw)
            raise _translated(error) from error
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
            with _watchdog.limit(raw, limit):
                raw.autocommit = True
                try:
                    with raw.cursor() as cur:
                        yield cur
                finally:
                    if not raw.closed:
                        raw.autocommit = False
        except psycopg2.Error as error:
            self._give_up(raw)
            raise _translated(error) from error
        except BaseException:
            self.close()
            raise

    def wait_notified(self, listen: str, seconds: float) -> bool:
        """Wait for a notification, at most this long; tell whether one came, or may have been missed.

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
            raise _translated(error) from error
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
        raw = self._connection()
        self._streams += 1
        cur = raw.cursor(f"stream_{self._streams}")
        self.limit(time_limit_seconds())
        cur.execute(statement, parameters)
        while True:
            rows = cur.fetchmany(rows_at_once)
            self.limit(pause_seconds())
            yield from rows
            if len(rows) < rows_at_once:
                break
            self.limit(time_limit_seconds())
        cur.close()  # one that is not read to its end is closed by the end of the transaction

    def limit(self, seconds: float) -> None:
        """Let the transaction under way last so long from now, whatever it was given at its begin."""
        if self._raw is not None:
            _watchdog.change(self._raw, seconds)

    def cut(self) -> None:
        """End what another thread is waiting for here: it gets DatabaseUnavailable at once."""
        raw = self._raw
        if raw is not None:
            _cut(raw)

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
            with _watchdog.limit(raw, 5):
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
