"""Reads a statement's rows by name, and streams a COPY."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any, Protocol

from psycopg2.extensions import cursor

Cursor = cursor
"""What transaction() and query() yield: psycopg2's cursor."""


Row = dict[str, Any]
"""A row's values by column name."""


def fetch_rows(cur: Cursor, statement: str, parameters: Mapping[str, object] | None = None) -> list[Row]:
    """Run a statement and return its rows."""
    cur.execute(statement, parameters)
    names = [column.name for column in cur.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cur.fetchall()]


class Sink(Protocol):
    """Takes the bytes of a COPY, a row at a time."""

    def write(self, data: bytes, /) -> int:
        """Take some bytes; return how many."""
        ...


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


def copy_bytes(cur: Cursor, statement: str, parameters: Mapping[str, Any]) -> memoryview | None:
    """Run a `COPY (...) TO STDOUT (FORMAT binary)` of at most one bytea; return it, or None without a row."""
    sink = BytesIO()
    if not copy_out(cur, statement, parameters, sink):
        return None
    # 19 bytes before the rows, 2 for the count of columns, 4 for the length; 2 after the rows.
    return sink.getbuffer()[25:-2]
