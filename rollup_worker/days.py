"""Adds past hours of a dimension to its days.

While an hour is going on, its events are added to the hour alone; when it is over, the hour is added to its
day, once. That halves what a busy hour writes. Who reads days adds the hours from `days_until` on; late
events go to both. Where days alone are kept, an hour is removed when its day has it.
"""

import time
from datetime import datetime, timedelta

import structlog

from rollup_worker.dimensions import Dimension, list_dimensions
from rollup_worker.merge import Merge, merge_rest
from rollup_worker.spread import begin_move, end_move, keep_rollups_out
from shared.pieces import HALF_MINUTES
from shared.postgres import Database
from shared.process import Stop
from shared.statements import load_statements, with_tables

_HALF = timedelta(minutes=HALF_MINUTES)
_SQL = load_statements("dimensions.sql")
_ROLLUPS = load_statements("rollups.sql")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("days")


class Days:
    """For one thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._merge = Merge(database)

    def add_past_hours(self, stop: Stop) -> None:
        """Add each hour that is over to its dimension's days, one by one. Raises DatabaseUnavailable."""
        with self._database.transaction() as cur:
            end_move(cur)  # of a worker that was killed
            dimensions = [each for each in list_dimensions(cur) if each.days_until is not None]
        for dimension in dimensions:
            while not stop:
                began = time.monotonic()
                if not self._add_hour(dimension, stop):
                    break
                stop.wait(time.monotonic() - began)  # rollups waited as long

    def merge_hours(self, stop: Stop) -> None:
        """Merge the rows of hours that are going on, where they have become many.

        Raises DatabaseUnavailable.
        """
        with self._database.query() as cur:
            dimensions = list_dimensions(cur)
        for dimension in dimensions:
            if dimension.days_until is not None:
                self._merge.merge_many(dimension.hours_table, dimension.days_until, stop)

    def _add_hour(self, dimension: Dimension, stop: Stop) -> bool:
        statement = with_tables(
            _ROLLUPS["add_hour_to_days"], hours_table=dimension.hours_table, table=dimension.days_table
        )
        hour = self._hour_to_add(dimension)
        if hour is None:
            return False
        self._merge.merge_past(dimension.hours_table, hour, stop)  # before rollups have to wait
        with self._database.transaction() as cur:
            end_move(cur)
            keep_rollups_out(cur)
            cur.execute(_SQL["hour_to_add"], {"name": dimension.name})  # again: it may have been added since
            if cur.fetchall() != [(hour,)]:
                return True
            merge_rest(cur, dimension.hours_table, hour)
            rows = 0
            for half in (hour, hour + _HALF):
                cur.execute(statement, {"half": half})
                rows += cur.rowcount
            if not dimension.keeps_hours:
                cur.execute(with_tables(_ROLLUPS["remove_hour"], table=dimension.hours_table), {"hour": hour})
            cur.execute(_SQL["hour_added"], {"name": dimension.name})
            begin_move(cur)
        with self._database.transaction() as cur:
            end_move(cur)
        _log.info("hour added to days", dimension=dimension.name, hour=hour.isoformat(), rows=rows)
        return True

    def _hour_to_add(self, dimension: Dimension) -> datetime | None:
        with self._database.query() as cur:
            cur.execute(_SQL["hour_to_add"], {"name": dimension.name})
            found: list[tuple[datetime]] = cur.fetchall()
        return found[0][0] if found else None
