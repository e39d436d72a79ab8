"""Stores rows in PostgreSQL: COPY into a temporary table, one statement, commit. See sql/ingest.sql."""

import time
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from ingestor.batch import Batch, DeadLetter, Row
from shared.db import Database
from shared.errors import AnalyticsError, DatabaseUnavailable
from shared.migrate import check_schema
from shared.statements import load_statements

_SQL = load_statements("ingest.sql")

# The server gives up on a statement before the watchdog gives up on the server, and both soon enough
# that a batch is written within half a minute of the server's return.
LOCK_TIMEOUT_SECONDS = 15
STATEMENT_TIMEOUT_SECONDS = 20
TRANSACTION_LIMIT_SECONDS = 25


@dataclass(slots=True)
class Outcome:
    """What became of a batch; duplicates are received but not inserted."""

    batch_ids: list[int] = field(default_factory=list)
    received: int = 0
    inserted: int = 0
    content_conflicts: int = 0
    late: int = 0
    commit_seconds: float = 0.0
    dead_letters: list[DeadLetter] = field(default_factory=list)

    @property
    def duplicates(self) -> int:
        """Events that were there already."""
        return self.received - self.inserted


class _HiddenDuplicates(Exception):
    """Keys were committed by someone else during our statement: their digests could not be seen."""


class BatchStore:
    """Stores rows under this ingestor's name. For one thread."""

    def __init__(self, database_url: str, ingestor: str) -> None:
        self._database = Database(
            database_url,
            application_name="ingestor",
            statement_timeout_seconds=STATEMENT_TIMEOUT_SECONDS,
            lock_timeout_seconds=LOCK_TIMEOUT_SECONDS,
        )
        self._ingestor = ingestor
        self._prepared: Any = None  # the connection that has the temporary table
        self._last_batch_id = 0
        self._unanswered: tuple[object, object] | None = None

    def check(self) -> None:
        """Raise DatabaseUnavailable if no batch could be written now; an old schema is one cause."""
        try:
            with self._database.query(time_limit_seconds=10) as cur:
                check_schema(cur)
                if not self._last_batch_id:
                    cur.execute(_SQL["newest_batch"])
                    [(self._last_batch_id,)] = cur.fetchall()
        except DatabaseUnavailable:
            raise
        except AnalyticsError as error:  # no schema at all, or no right to it, until the migration ran
            raise DatabaseUnavailable(f"{error}: has python -m shared.migrate been run?") from error

    def store(self, rows: list[Row], batch: Batch, outcome: Outcome, *, check_rows: bool = False) -> None:
        """Store rows, unique by key, in one transaction and add what became of them to the outcome.

        check_rows: also recognise events that are stored without their keys.
        Raises DatabaseUnavailable (try again with the same rows; it may turn out that the commit took
        place), DatabaseRejected (nothing of it was stored), AnalyticsError (a bug).
        """
        received = sum([1 + len(row.copies or ()) for row in rows])
        values = {
            "ingestor": self._ingestor,
            "received_at": batch.received_at,
            "received": received,
            "rows": len(rows),
            "content_conflicts": sum(row.content_conflicts for row in rows),
            "check_rows": check_rows,
        }
        identity = (batch.received_at, received)
        started = time.monotonic()
        try:
            result = self._committed_before(values) if self._unanswered == identity else None
            if result is None:
                result = self._insert(rows, values)
        except DatabaseUnavailable:
            self._unanswered = identity
            raise
        self._unanswered = None
        self._last_batch_id, inserted, content_conflicts, late = result
        outcome.batch_ids.append(self._last_batch_id)
        outcome.received += received
        outcome.inserted += inserted
        outcome.content_conflicts += content_conflicts
        outcome.late += late
        outcome.commit_seconds += time.monotonic() - started

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _committed_before(self, values: dict[str, Any]) -> tuple[int, int, int, int] | None:
        """Look for the record of a batch whose commit went unanswered, to count its events as new."""
        with self._database.query(time_limit_seconds=TRANSACTION_LIMIT_SECONDS) as cur:
            cur.execute(_SQL["find_committed"], {**values, "after_batch_id": self._last_batch_id})
            row = cur.fetchone()
        return None if row is None else (row[0], row[1], row[2], row[3])

    def _insert(self, rows: list[Row], values: dict[str, Any]) -> tuple[int, int, int, int]:
        lines = "\n".join([row.event.copy_line for row in rows]).encode()
        try:
            return self._transaction(lines, values, accept_hidden=False)
        except _HiddenDuplicates:
            # Now they can be seen. If others hide meanwhile, a conflict of content may stay uncounted.
            return self._transaction(lines, values, accept_hidden=True)

    def _transaction(
        self, lines: bytes, values: dict[str, Any], *, accept_hidden: bool
    ) -> tuple[int, int, int, int]:
        with self._database.transaction(time_limit_seconds=TRANSACTION_LIMIT_SECONDS) as cur:
            if cur.connection is not self._prepared:
                cur.execute(_SQL["create_incoming"])
            cur.copy_expert(_SQL["copy_incoming"], BytesIO(lines), size=1 << 20)
            cur.execute(_SQL["store"], values)
            batch_id, inserted, content_conflicts, late, hidden = cur.fetchone() or ()
            if hidden and not accept_hidden:
                raise _HiddenDuplicates
        self._prepared = cur.connection
        return batch_id, inserted, content_conflicts, late
