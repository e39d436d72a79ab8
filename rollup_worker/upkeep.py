"""Keeps the tables in shape: partitions ahead, retention, dedupe keys past their window.

Every step is short and in a transaction of its own, so that ingestion never waits long for it. Of
several workers, the one that gets the lock does the step; the others find it done.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from shared.buckets import bucket_start
from shared.clock import Clock, utc_now
from shared.db import Database
from shared.metrics import RollupMetrics
from shared.process import Stop
from shared.settings import RollupWorkerSettings
from shared.statements import load_statements

DAYS_AHEAD = 7
_MOST_ROWS = 10_000

_SQL = load_statements("maintenance.sql")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("upkeep")


@dataclass(frozen=True)
class _Pruning:
    statement: str
    cutoff: datetime


class Upkeep:
    """The hourly upkeep. For one thread."""

    def __init__(
        self,
        database: Database,
        settings: RollupWorkerSettings,
        metrics: RollupMetrics,
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._settings = settings
        self._metrics = metrics
        self._clock = clock

    def run(self, stop: Stop) -> None:
        """Do all of it once, unless the stop comes first. Raises DatabaseUnavailable."""
        now = self._clock()
        self._make_partitions(now)
        for pruning in self._prunings(now):
            self._prune(pruning, stop)
        self._drop_old_events(now)  # last, since a long read of the events holds it up

    def _make_partitions(self, now: datetime) -> None:
        with self._database.transaction() as cur:
            days = {
                "from_day": now.date() - timedelta(days=1),
                "to_day": now.date() + timedelta(days=DAYS_AHEAD),
            }
            cur.execute(_SQL["create_partitions"], days)
            row = cur.fetchone()
            cur.execute(_SQL["days_ahead"], {"today": now.date()})
            ahead = cur.fetchone()
        if row and row[0]:
            _log.info("partitions created", partitions=row[0])
        if ahead:
            self._metrics.event_partitions.set(ahead[0])

    def _drop_old_events(self, now: datetime) -> None:
        with self._database.transaction() as cur:
            cur.execute(_SQL["keep_events"], {"retention": self._settings.event_retention, "as_of": now})
            row = cur.fetchone()
        if row and row[0]:
            _log.info("old events dropped", partitions=row[0])

    def _prunings(self, now: datetime) -> list[_Pruning]:
        rollups = bucket_start(now - self._settings.rollup_retention, "day")
        return [
            _Pruning("prune_keys", now - self._settings.dedupe_window),
            _Pruning("prune_batches", now - self._settings.dedupe_window),
            _Pruning("prune_hourly", rollups),
            _Pruning("prune_daily", rollups),
            _Pruning("prune_hourly_error_codes", rollups),
            _Pruning("prune_daily_error_codes", rollups),
        ]

    def _prune(self, pruning: _Pruning, stop: Stop) -> None:
        """Remove rows in small steps until none are left or another worker is at it."""
        removed = 0
        while not stop:
            with self._database.transaction() as cur:
                cur.execute(_SQL["try_lock"])
                if cur.fetchone() != (True,):
                    break
                cur.execute(_SQL[pruning.statement], {"cutoff": pruning.cutoff, "most_rows": _MOST_ROWS})
                step = cur.rowcount
            removed += step
            if pruning.statement == "prune_keys":
                self._metrics.pruned_keys.inc(step)
            if step < _MOST_ROWS:
                break
            stop.wait(0.05)
        if removed:
            _log.info("old rows removed", statement=pruning.statement, rows=removed)
