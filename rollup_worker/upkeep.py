"""Keeps the tables in shape: partitions ahead, retention.

Every step is short and in a transaction of its own, so that ingestion never waits long for it. Of
several workers, the one that gets the lock does the step; the others find it done. Of which days events or
rollups were dropped is recorded with the drop (analytics.dropped_days), for verify and rebuild.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from rollup_worker.dimensions import list_dimensions
from rollup_worker.spread import is_spread
from shared.buckets import bucket_start
from shared.clock import Clock
from shared.pieces import HOUR_MINUTES
from shared.postgres import Cursor, Database
from shared.process import Stop
from shared.settings import RollupWorkerSettings
from shared.statements import load_statements, with_tables

DAYS_AHEAD = 7
_MAX_ROWS = 10_000

_SQL = load_statements("maintenance.sql")
_ROLLUPS = load_statements("rollups.sql")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("upkeep")


@dataclass(frozen=True)
class _Pruning:
    statement: str
    cutoff: datetime
    table: str | None = None
    """Which part of the rollups; then the statement returns the days of what it removed."""
    dimension: str | None = None
    """Whose rollups before the cutoff are gone when this begins."""
    recorded: bool = False


class Upkeep:
    """The hourly upkeep. For one thread.

    clock: tells what is old; the database's unless told, since a worker's that is ahead would drop too much.
    """

    def __init__(
        self,
        database: Database,
        settings: RollupWorkerSettings,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock or self._database_time

    def run(self, stop: Stop) -> None:
        """Do all of it once, unless the stop comes first. Raises DatabaseUnavailable."""
        now = self._clock()
        self._make_partitions(now)
        for pruning in self._prunings(now):
            self._prune(pruning, stop)
        self._drop_expired_events(now, stop)  # last, since a long read of the events holds it up

    def _database_time(self) -> datetime:
        with self._database.query() as cur:
            cur.execute(_SQL["now"])
            [(now,)] = cur.fetchall()
        at: datetime = now.astimezone(UTC)
        return at

    def _make_partitions(self, now: datetime) -> None:
        with self._database.transaction() as cur:
            days = {
                "from_day": now.date() - timedelta(days=1),
                "to_day": now.date() + timedelta(days=DAYS_AHEAD),
            }
            cur.execute(_SQL["create_partitions"], days)
            [(created,)] = cur.fetchall()
        if created:
            _log.info("partitions created", partitions=created)

    def _drop_expired_events(self, now: datetime, stop: Stop) -> None:
        """Single rows in small steps, then whole days."""
        days = rows = 0
        parameters = {"retention": self._settings.event_retention, "as_of": now, "max_rows": _MAX_ROWS}
        while not stop:
            with self._database.transaction() as cur:
                cur.execute(_SQL["drop_expired_events"], parameters)
                [(dropped, deleted)] = cur.fetchall()
            days, rows = days + dropped, rows + deleted
            if deleted < _MAX_ROWS:
                break
            stop.wait(0.05)
        if days or rows:
            _log.info("old events dropped", partitions=days, single_rows=rows)

    def _prunings(self, now: datetime) -> list[_Pruning]:
        rollups = bucket_start(now - self._settings.rollup_retention, "day")
        return [
            _Pruning("prune_batches", now - self._settings.dedupe_window),
            *self._rollup_prunings(now, rollups),
            _Pruning("prune_models", rollups),
        ]

    def _rollup_prunings(self, now: datetime, oldest: datetime) -> Iterator[_Pruning]:
        """Every part's buckets before the retention's end; a dimension's hours perhaps sooner."""
        with self._database.query() as cur:
            dimensions = list_dimensions(cur)
        for dimension in dimensions:
            for table, grain, *_ in dimension.parts:
                cutoff = oldest
                if grain == HOUR_MINUTES and dimension.hours_kept:
                    cutoff = max(oldest, bucket_start(now - dimension.hours_kept, "day"))
                if grain == HOUR_MINUTES and dimension.days_until:
                    cutoff = min(cutoff, dimension.days_until)  # what its days do not hold yet stays
                yield _Pruning(
                    "prune_rollups",
                    cutoff,
                    table,
                    dimension=dimension.name if cutoff <= oldest else None,
                    recorded=not dimension.groupable,
                )

    def _prune(self, pruning: _Pruning, stop: Stop) -> None:
        """Remove rows in small steps until none are left or another worker is at it."""
        removed = 0
        while not stop:
            with self._database.transaction() as cur:
                cur.execute(_SQL["try_lock"])
                if cur.fetchone() != (True,):
                    break
                statement = _SQL[pruning.statement]
                if pruning.table:
                    cur.execute(_ROLLUPS["share_rollups"])
                    if not any(
                        pruning.table in (part.table for part in each.parts) for each in list_dimensions(cur)
                    ):
                        break  # dropped with its dimension just now
                    statement = with_tables(statement, table=pruning.table)
                step = _remove(cur, statement, pruning)
            removed += step
            if step < _MAX_ROWS:
                break
            stop.wait(0.05)
        if removed:
            _log.info("old rows removed", statement=pruning.statement, table=pruning.table, rows=removed)


def _remove(cur: Cursor, statement: str, pruning: _Pruning) -> int:
    """Remove and record the rows of a step; return how many there were."""
    limits = {"cutoff": pruning.cutoff, "max_rows": _MAX_ROWS}
    org_ids: list[str | None] = [None]
    if pruning.table and is_spread(cur):
        cur.execute(with_tables(_SQL["orgs_to_prune"], table=pruning.table), limits)
        org_ids = [org_id for (org_id,) in cur.fetchall()]
    removed = 0
    for org_id in org_ids:
        cur.execute(statement, limits | {"org_id": org_id})
        if cur.rowcount:
            removed += cur.rowcount
            _record(cur, pruning)
    return removed


def _record(cur: Cursor, pruning: _Pruning) -> None:
    """Record what a statement removed, in its transaction."""
    if pruning.recorded:
        days = sorted({day for (day,) in cur.fetchall()})
        cur.execute(_SQL["record_dropped_rollups"], {"days": days})
    if pruning.dimension is not None:
        cur.execute(_SQL["note_kept_since"], {"name": pruning.dimension, "cutoff": pruning.cutoff})
