"""Stores rows in PostgreSQL: claim the keys, record the batch, COPY what is new. See sql/ingest.sql.

Keys are copied on the assumption that the open part of the ledger knows none: its primary key refuses the
batch if it does. Only then are the known ones looked for there and left out, and for the next batches too,
until one has no duplicate. What the closed parts know is found before, by their filters
(ingestor/closed_parts.py).
"""

import time
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO

from ingestor.batch import Batch, DeadLetter, Row
from ingestor.closed_parts import ClosedParts, find_in
from ingestor.key_rows import key_rows
from shared.errors import AnalyticsError, DatabaseUnavailable, DuplicateRow, TableMissing
from shared.migrate import check_schema
from shared.postgres import Cursor, Database
from shared.statements import load_statements
from shared.usage_event.decode import stored_digest

_SQL = load_statements("ingest.sql")
_KEYS_TABLE = "event_keys"

# The server gives up on a statement before the watchdog gives up on the server, and both soon enough
# that a batch is written within half a minute of the server's return.
LOCK_TIMEOUT_SECONDS = 15
STATEMENT_TIMEOUT_SECONDS = 20
TRANSACTION_LIMIT_SECONDS = 25

LATE_AFTER = timedelta(hours=1)
"""An event received longer than this after it occurred is counted as late."""

Stored = tuple[int, int, int, int]
"""A batch's id, and how many events were inserted, differ in content, and were late."""


@dataclass(slots=True)
class Outcome:
    """What became of a batch; duplicates are received but not inserted.

    lookups: keys that were looked for in closed parts. false_positives: those that a filter had let pass in
    vain.
    """

    batch_ids: list[int] = field(default_factory=list)
    received: int = 0
    inserted: int = 0
    content_conflicts: int = 0
    late: int = 0
    commit_seconds: float = 0.0
    lookups: int = 0
    false_positives: int = 0
    dead_letters: list[DeadLetter] = field(default_factory=list)

    @property
    def duplicates(self) -> int:
        """Events that were there already."""
        return self.received - self.inserted


class _PartsChanged(Exception):
    """A part was closed, merged or dropped since this process read the list of parts."""


class BatchStore:
    """Stores rows under this ingestor's name. For one thread. closed: shared by the process's stores."""

    def __init__(self, database_url: str, ingestor: str, closed: ClosedParts | None = None) -> None:
        self._database = Database(
            database_url,
            application_name="ingestor",
            statement_timeout_seconds=STATEMENT_TIMEOUT_SECONDS,
            lock_timeout_seconds=LOCK_TIMEOUT_SECONDS,
        )
        self._ingestor = ingestor
        self._closed = closed or ClosedParts()
        self._parts = self._closed.parts
        self._last_batch_id = 0
        self._look_first = False
        self._unanswered: tuple[object, object] | None = None

    def check(self) -> None:
        """Raise DatabaseUnavailable if no batch could be written now; an old schema is one cause."""
        try:
            with self._database.query(time_limit_seconds=10) as cur:
                check_schema(cur)
                cur.execute(_SQL["newest_batch"])
                [(self._last_batch_id,)] = cur.fetchall()
            self._closed.refresh(self._database, if_due=True)
        except DatabaseUnavailable:
            raise
        except AnalyticsError as error:  # no schema at all, or no right to it, until the migration ran
            raise DatabaseUnavailable(f"{error}: has python -m shared.migrate been run?") from error

    def store(self, rows: list[Row], batch: Batch, outcome: Outcome) -> None:
        """Store rows, unique by key, in one transaction and add what became of them to the outcome.

        Raises DatabaseUnavailable (try again with the same rows; it may turn out that the commit took
        place), DatabaseRejected (nothing of it was stored), AnalyticsError (a bug).
        """
        received = sum([1 + len(row.copies or ()) for row in rows])
        started = time.monotonic()
        check_rows = False
        stored: Stored | None = None
        self._closed.refresh(self._database, if_due=True)
        while stored is None:
            self._parts = self._closed.parts
            try:
                stored = self._attempt(rows, batch, received, outcome, check_rows=check_rows)
            except (_PartsChanged, TableMissing):
                listed = [part.number for part in self._parts]
                if self._closed.numbers == listed:  # the other writer has not read it either, or too early
                    self._closed.refresh(self._database)
                if self._closed.numbers == listed:
                    raise
            except DuplicateRow as error:
                if error.table == _KEYS_TABLE:
                    # Whoever has the key has committed it (it may have been our own unanswered commit), so
                    # each attempt knows more keys than the one before.
                    self._look_first = True
                elif not check_rows:
                    check_rows = True
                else:
                    raise
        self._unanswered = None
        self._last_batch_id, inserted, content_conflicts, late = stored
        outcome.batch_ids.append(self._last_batch_id)
        outcome.received += received
        outcome.inserted += inserted
        outcome.content_conflicts += content_conflicts
        outcome.late += late
        outcome.commit_seconds += time.monotonic() - started

    def _attempt(
        self, rows: list[Row], batch: Batch, received: int, outcome: Outcome, *, check_rows: bool
    ) -> Stored:
        """Store rows, unless a commit of theirs that went unanswered did so. Raises DuplicateRow too."""
        identity = (batch.received_at, received)
        try:
            before = self._committed_before(batch, received) if self._unanswered == identity else None
            return before or self._insert(rows, batch, received, outcome, check_rows=check_rows)
        except DatabaseUnavailable:
            self._unanswered = identity
            raise

    @property
    def filter_bytes(self) -> int:
        """Memory of the closed parts' filters, which the process's stores share."""
        return self._closed.filter_bytes

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _committed_before(self, batch: Batch, received: int) -> Stored | None:
        """Look for the record of a batch whose commit went unanswered, to count its events as new."""
        values = {
            "ingestor": self._ingestor,
            "after_batch_id": self._last_batch_id,
            "correlation_id": batch.correlation_id,
            "received_at": batch.received_at,
            "received": received,
        }
        with self._database.transaction(time_limit_seconds=TRANSACTION_LIMIT_SECONDS) as cur:
            cur.execute(_SQL["find_committed"], values)
            row = cur.fetchone()
            if row is not None:
                cur.execute(_SQL["wait_replicated"])
        return None if row is None else (row[0], row[1], row[2], row[3])

    def _insert(
        self, rows: list[Row], batch: Batch, received: int, outcome: Outcome, *, check_rows: bool
    ) -> Stored:
        """Store the rows that are new, and claim their keys and those of rows that are stored without.

        check_rows: recognise the latter, sent again after their keys were pruned. The stored row is the first
        under its key: its content is what the key remembers.
        Raises DuplicateRow for a key or a row that was not looked for, _PartsChanged for a part.
        """
        with self._database.transaction(time_limit_seconds=TRANSACTION_LIMIT_SECONDS) as cur:
            known = _find_known(cur, rows) if self._look_first else {}
            if self._parts:
                events = [row.event for row in rows]
                event_ids, org_ids = [event.event_id for event in events], [event.org_id for event in events]
                known |= find_in(self._parts, cur, event_ids, org_ids, outcome)
            new = [row for row in rows if row.event.key not in known] if known else rows
            stored = _find_stored(cur, new) if check_rows else {}
            content_conflicts = _count_conflicts(rows, known | stored)
            _copy_keys(cur, new, stored, batch)
            if stored:
                new = [row for row in new if row.event.key not in stored]
            times = [row.event.occurred_at for row in new]
            latest_on_time = batch.received_at - LATE_AFTER
            late = sum([instant < latest_on_time for instant in times])
            values = {
                "ingestor": self._ingestor,
                "correlation_id": batch.correlation_id,
                "received_at": batch.received_at,
                "received": received,
                "inserted": len(new),
                "content_conflicts": content_conflicts,
                "late": late,
                "oldest": min(times, default=None),
                "newest": max(times, default=None),
            }
            cur.execute(_SQL["record_batch"], values)
            [(batch_id, numbers)] = cur.fetchall()
            if numbers != [part.number for part in self._parts]:
                raise _PartsChanged
            _copy_events(cur, new, batch_id, batch)
        self._look_first = len(new) < len(rows)
        return batch_id, len(new), content_conflicts, late


def _find_known(cur: Cursor, rows: list[Row]) -> dict[tuple[str, str], int]:
    """Return the content digests of the first events under those keys that are known."""
    cur.execute(_SQL["find_known"], _keys(rows))
    return {(event_id, org_id): digest for event_id, org_id, digest in cur.fetchall()}


def _count_conflicts(rows: list[Row], known: dict[tuple[str, str], int]) -> int:
    """Count the events that differ in content from the first under their key, stored before or now."""
    doubtful = rows if known else [row for row in rows if row.copies]
    return sum(row.count_differing(known.get(row.event.key, row.event.content_digest)) for row in doubtful)


def _copy_keys(cur: Cursor, rows: list[Row], stored: dict[tuple[str, str], int], batch: Batch) -> None:
    if rows:
        data = key_rows([row.event for row in rows], stored, batch.received_at)
        _copy(cur, f"{_SQL['announce']}\n{_SQL['copy_keys']}", data)


def _find_stored(cur: Cursor, rows: list[Row]) -> dict[tuple[str, str], int]:
    """Return the content digests of those events that are stored without a key."""
    times = _array([row.event.occurred_at.isoformat() for row in rows])
    cur.execute(_SQL["find_stored"], _keys(rows) | {"times": times})
    return {(columns[0], columns[1]): stored_digest(columns) for columns in cur.fetchall()}


def _copy_events(cur: Cursor, rows: list[Row], batch_id: int, batch: Batch) -> None:
    if rows:
        end = f"\t{batch_id}\t{batch.received_at.isoformat()}\n"
        _copy(cur, _SQL["copy_events"], end.join([*[row.event.copy_line for row in rows], ""]).encode())


def _copy(cur: Cursor, statement: str, data: bytes) -> None:
    cur.copy_expert(statement, BytesIO(data), size=1 << 20)


def _keys(rows: list[Row]) -> dict[str, object]:
    return {
        "event_ids": _array([row.event.event_id for row in rows]),
        "org_ids": _array([row.event.org_id for row in rows]),
    }


def _array(texts: list[str]) -> str:
    """Write texts that need no quotes as a PostgreSQL array; the driver's own way is many times slower."""
    return f"{{{','.join(texts)}}}"
