"""Opens connections to a server that takes writes, and turns the driver's errors into ours."""

import psycopg2
import psycopg2.errors as pg_errors
from psycopg2.extensions import connection, parse_dsn

from shared.errors import (
    AnalyticsError,
    DatabaseBusy,
    DatabaseRejected,
    DatabaseUnavailable,
    DuplicateRow,
    TableMissing,
)

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


def connect(url: str, *, application_name: str) -> connection:
    """Open a connection that begins no transaction by itself. Raises DatabaseUnavailable.

    Of several hosts it takes the first that takes writes; a standby is as good as away. Each host has 5 s to
    answer.
    """
    try:
        raw: connection = psycopg2.connect(
            url,
            application_name=application_name,
            connect_timeout=5,
            keepalives=1,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=15_000,
            target_session_attrs=parse_dsn(url).get("target_session_attrs", "read-write"),
        )
    except psycopg2.Error as error:
        raise translated(error) from error
    raw.autocommit = True
    return raw


def refuses_writes(raw: connection) -> bool:
    """Whether the server has become a standby, or was made read-only, as far as it has told.

    It tells so by itself, behind the answer to the next statement: that costs nothing.
    """
    tell = raw.info.parameter_status
    return "on" in {tell("in_hot_standby"), tell("default_transaction_read_only")}


_LOST_SERVER = (
    "postmaster was shut down",
    "server closed the connection unexpectedly",
    "terminating connection due to ",
    "failure on connection marked as essential",
    "cannot recover from multiple connection failures",
    "could not connect to any active placements",
    "failed to prepare transaction",
    "could not commit transaction for shard",
    "to fetch intermediate results",
    "failed to read result",
)
"""What Citus says without a code of the coordinator or a node that ends. From its source."""
_DUPLICATE_ON_NODE = " violates unique constraint "
_REFUSED_ON_NODE = (" violates check constraint ", " violates not-null constraint")


def _is_of_citus(error: psycopg2.Error, *texts: str) -> bool:
    """Whether Citus says so: some of its errors have no code, and from a COPY on a node it hands on none."""
    said = str(error).partition("\n")[0]
    return isinstance(error, pg_errors.InternalError_) and any(text in said for text in texts)


def translated(error: psycopg2.Error) -> AnalyticsError:
    """Return the error of ours for one of the driver's; its message is the text."""
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, _BUSY):
        return DatabaseBusy(message)
    # Without a code of the server's it is libpq that gave up, such as on a connection cut within a COPY.
    given_up = type(error) is psycopg2.DatabaseError and error.pgcode is None
    if isinstance(error, _UNAVAILABLE) or given_up or _is_of_citus(error, *_LOST_SERVER):
        return DatabaseUnavailable(message)
    if isinstance(error, pg_errors.UniqueViolation) or _is_of_citus(error, _DUPLICATE_ON_NODE):
        return DuplicateRow(message, error.diag.table_name)
    if isinstance(error, pg_errors.UndefinedTable):
        return TableMissing(message)
    if isinstance(error, psycopg2.DataError | psycopg2.IntegrityError) or _is_of_citus(
        error, *_REFUSED_ON_NODE
    ):
        return DatabaseRejected(message)
    return AnalyticsError(message)
