"""Opens connections with limits on every wait, and turns the driver's errors into ours."""

import psycopg2
import psycopg2.errors as pg_errors
from psycopg2.extensions import connection

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
        raise translated(error) from error


def translated(error: psycopg2.Error) -> AnalyticsError:
    """Return the error of ours for one of the driver's; its message is the text."""
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
