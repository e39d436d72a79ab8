"""Adds past hours of a dimension to its days.

While an hour is going on, its events are added to the hour alone; when it is over, the hour is added to its
day, once. That halves what a busy hour writes. Who reads days adds the hours from `days_until` on; late
events go to both.
"""

import time

import structlog

from rollup_worker.dimensions import Dimension, list_dimensions
from shared.postgres import Database
from shared.process import Stop
from shared.statements import load_statements, with_tables

_SQL = load_statements("dimensions.sql")
_ROLLUPS = load_statements("rollups.sql")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("days")


class Days:
    """For one thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_past_hours(self, stop: Stop) -> None:
        """Add each hour that is over to its dimension's days, one by one. Raises DatabaseUnavailable."""
        with self._database.query() as cur:
            dimensions = list_dimensions(cur)
        for dimension in dimensions:
            if dimension.days_until is None:
                continue
            while not stop:
                began = time.monotonic()
                if not self._add_hour(dimension):
                    break
                stop.wait(time.monotonic() - began)  # rollups waited as long

    def _add_hour(self, dimension: Dimension) -> bool:
        assert dimension.hours_table is not None  # noqa: S101  the table's CHECK
        statement = with_tables(
            _ROLLUPS["add_hour_to_days"], hours_table=dimension.hours_table, days_table=dimension.days_table
        )
        with self._database.transaction() as cur:
            cur.execute(_SQL["hour_to_add"], {"name": dimension.name})
            if not cur.fetchall():
                return False
            cur.execute(_ROLLUPS["lock_rollups"])
            cur.execute(_SQL["hour_to_add"], {"name": dimension.name})  # again: it may have been added since
            found = cur.fetchall()
            if not found:
                return False
            cur.execute(statement, {"hour": found[0][0]})
            rows = cur.rowcount
            cur.execute(_SQL["hour_added"], {"name": dimension.name})
        _log.info("hour added to days", dimension=dimension.name, hour=found[0][0].isoformat(), rows=rows)
        return True
