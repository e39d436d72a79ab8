"""The border to PostgreSQL: connections that never wait without end, and errors in our own words.

The server's limits (statement, lock, idle transaction) end slow work, TCP's end dead peers, and a watchdog
ends a wait for a server that is silent.
"""

from shared.postgres.connection import connect
from shared.postgres.database import Beginning, Database
from shared.postgres.pool import Pool
from shared.postgres.rows import Cursor, Row, Sink, copy_bytes, copy_out, fetch_rows
from shared.postgres.url import check_url

__all__ = [
    "Beginning",
    "Cursor",
    "Database",
    "Pool",
    "Row",
    "Sink",
    "check_url",
    "connect",
    "copy_bytes",
    "copy_out",
    "fetch_rows",
]
