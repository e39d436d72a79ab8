"""The raw events of a window as CSV: from one snapshot, in the order they occurred, in bounded memory."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from gateway.database import scope_of
from shared.csv_text import CsvLines
from shared.postgres import Cursor, Database, Pool
from shared.statements import load_statements
from shared.usage_event.schema import STATUSES

COLUMNS = (
    "event_id", "org_id", "occurred_at", "received_at", "model_id", "actor_id", "input_tokens",
    "output_tokens", "latency_ms", "status", "error_code", "cost_estimate_cents", "metadata",
)  # fmt: skip
DEFAULT_ROWS = 10_000
MAX_ROWS = 1_000_000

# Exports have connections of their own, so that slow downloads never hold up the other reads.
_CONNECTIONS = 2
_WAIT_SECONDS = 2.0
_LIMIT_SECONDS = 900.0

_SQL = load_statements("incidents.sql")


@dataclass(frozen=True)
class IncidentRequest:
    """Which events: of an organisation (lower-case UUID), in [start, end), perhaps of one model or status."""

    org_id: str
    start: datetime
    end: datetime
    model_id: str | None = None
    status: str | None = None
    max_rows: int = DEFAULT_ROWS

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None or self.start >= self.end:
            raise ValueError("start and end must have a zone, and end must be later than start")
        if self.status not in (None, *STATUSES):
            raise ValueError(f"status must be None or one of {', '.join(STATUSES)}")
        if not 1 <= self.max_rows <= MAX_ROWS:
            raise ValueError(f"max_rows must be from 1 to {MAX_ROWS}")


class Incident:
    """An open export: iterate once over its CSV, in UTF-8 pieces, then close it."""

    def __init__(self, cur: Cursor, resources: ExitStack, *, truncated: bool) -> None:
        self.truncated = truncated
        self._cur = cur
        self._resources = resources

    def __iter__(self) -> Iterator[bytes]:
        with self._resources:  # which learn how it ended
            yield from self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        csv = CsvLines()
        csv.add(COLUMNS)
        while True:
            self._cur.execute(_SQL["fetch"])
            rows = self._cur.fetchall()
            for row in rows:
                csv.add(row)
            yield csv.take()
            if not rows:
                return

    def closes_also(self, held: ExitStack) -> None:
        """Let go of something else when this is closed."""
        self._resources.push(held)

    def close(self) -> None:
        """Give the connection back."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)


class IncidentExporter:
    """Opens exports on connections lent by a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @classmethod
    def of(cls, database_url: str, *, connections: int = _CONNECTIONS) -> "IncidentExporter":
        """Make an exporter with connections of its own, opened when first needed."""
        return cls(Pool(lambda: Database(database_url, application_name="incident export"), connections))

    def export(self, request: IncidentRequest) -> Incident:
        """Count the events and open the export. Raises DatabaseUnavailable, also while it is read."""
        with ExitStack() as opening:
            database = opening.enter_context(self._pool.lend(wait_seconds=_WAIT_SECONDS))
            cur = opening.enter_context(
                database.transaction(
                    repeatable_read=True,
                    read_only=True,
                    time_limit_seconds=_LIMIT_SECONDS,
                    beginning=scope_of(request.org_id),
                )
            )
            parameters = vars(request)
            cur.execute(_SQL["count_up_to"], parameters)
            row = cur.fetchone()
            truncated = row is not None and row[0] > request.max_rows
            cur.execute(_SQL["open"], parameters)
            return Incident(cur, opening.pop_all(), truncated=truncated)
