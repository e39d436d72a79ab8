"""The writers: threads that store batches, each on a connection of its own, whichever is free the next one.

A batch ends as written (each event is committed or has to be dead-lettered) or as abandoned (its
messages will come again). While PostgreSQL is away a batch waits and is tried again.
"""

import queue
import time
from collections.abc import Callable

import structlog

from ingestor.batch import Batch, Row, dead_letter
from ingestor.store import BatchStore, Outcome
from shared.errors import DatabaseRejected, DatabaseUnavailable
from shared.metrics import IngestorMetrics
from shared.process import Backoff, Stop

IDLE_CHECK_SECONDS = 5
MAX_PAUSE_SECONDS = 5

WRITERS = 2
"""How many store batches side by side: one makes its text while PostgreSQL works on the other's."""

Batches = queue.SimpleQueue[Batch | None]
"""Where the writers take batches from; whoever puts them bounds their number. None wakes a writer up."""


class Writer:
    """Takes batches and passes each on to on_written, called in this thread."""

    def __init__(
        self,
        store: BatchStore,
        batches: Batches,
        metrics: IngestorMetrics,
        *,
        on_written: Callable[[Batch, Outcome], None],
    ) -> None:
        self.fault: str | None = "not connected yet"
        self.progress_at = time.monotonic()
        self._store = store
        self._metrics = metrics
        self._on_written = on_written
        self._batches = batches
        self._stop = Stop()
        self._backoff = Backoff(metrics.dependency_errors, max_seconds=MAX_PAUSE_SECONDS)
        self._log = structlog.get_logger("ingestor.writer")

    def stop(self) -> None:
        """End after the batch it is at, without waiting for a database that is away."""
        self._stop.set()
        self._batches.put(None)

    def run(self) -> None:
        """Store batches until the stop."""
        try:
            while self.fault and not self._stop:
                self._check()  # before the first batch: the schema may still be on its way
            while not self._stop:
                self.progress_at = time.monotonic()
                try:
                    batch = self._batches.get(timeout=0 if self.fault else IDLE_CHECK_SECONDS)
                except queue.Empty:
                    self._check()
                    continue
                if batch is not None:
                    self._write(batch)
        finally:
            self._store.close()

    def _check(self) -> None:
        """Learn while idle whether the database would take a batch, for /readyz."""
        self.progress_at = time.monotonic()
        try:
            self._store.check()
        except DatabaseUnavailable as error:
            self._wait(error, events=0)
        else:
            self._available()

    def _write(self, batch: Batch) -> None:
        """Store a batch's rows; those that PostgreSQL refuses become dead letters.

        A refused part is halved until the refused event stands alone: the others are stored in
        about 2 log2(n) transactions for each refused one.
        """
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(correlation_id=batch.correlation_id)
        outcome = Outcome(dead_letters=batch.dead_letters)
        parts = [list(batch.rows.values())] if batch.rows else []
        while parts and not batch.abandoned and not self._stop:
            self.progress_at = time.monotonic()
            try:
                self._store.store(parts[-1], batch, outcome)
            except DatabaseUnavailable as error:
                self._wait(error, events=batch.events)
                continue
            except DatabaseRejected as error:
                parts += self._halves(parts.pop(), batch, outcome, str(error))
                continue
            parts.pop()
            self._available()
        if not parts:
            self._measure(outcome)
            self._on_written(batch, outcome)

    def _halves(self, rows: list[Row], batch: Batch, outcome: Outcome, reason: str) -> list[list[Row]]:
        """Return the halves of a refused part; none of a single row, which becomes a dead letter."""
        if len(rows) > 1:
            middle = len(rows) // 2
            return [rows[middle:], rows[:middle]]
        row = rows[0]
        self._log.error("PostgreSQL refused an event", error=reason, event_id=row.event.event_id)
        for source in row.sources:
            letter = dead_letter(batch, source.message, source.raw, "rejected-by-database", reason)
            outcome.dead_letters.append(letter)
        return []

    def _wait(self, error: DatabaseUnavailable, *, events: int) -> None:
        self.fault = str(error)
        self._log.warning("PostgreSQL is away, trying again", error=str(error), events_waiting=events)
        self._backoff.wait(self._stop, "postgresql")

    def _available(self) -> None:
        if self.fault:
            self._log.info("PostgreSQL takes batches")
        self.fault = None
        self._backoff.reset()

    def _measure(self, outcome: Outcome) -> None:
        if not outcome.batch_ids:
            return
        metrics = self._metrics
        metrics.events.labels(result="accepted").inc(outcome.inserted)
        metrics.events.labels(result="duplicate").inc(outcome.duplicates)
        metrics.content_conflicts.inc(outcome.content_conflicts)
        metrics.late_events.inc(outcome.late)
        metrics.dedupe_lookups.inc(outcome.lookups)
        metrics.dedupe_false_positives.inc(outcome.false_positives)
        metrics.dedupe_filter_bytes.set(self._store.filter_bytes)
        metrics.batch_events.observe(outcome.received)
        metrics.commit_seconds.observe(outcome.commit_seconds)
        metrics.last_success.set_to_current_time()
