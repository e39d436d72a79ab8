"""Keeps the percentiles of buckets that are over beside their histograms, so that reads need not merge bins.

They hold until events are added to the bucket (sql/migrations/0018_percentiles.sql). Each time the last hours
and days are looked at. Besides, all that is stored is gone through once a day from the newest hour to the
oldest: that finds what late events were added to, what was made again, and what an older release has added.
"""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import structlog

from rollup_worker.dimensions import list_dimensions
from rollup_worker.spread import is_spread
from shared.buckets import bucket_start
from shared.pieces import DAY_MINUTES, HOUR_MINUTES
from shared.postgres import Cursor, Database
from shared.process import Stop
from shared.statements import load_statements, with_tables

_MAX_ROWS = 1_000
_LATEST_HOURS = 3
_LATEST_DAYS = 2
_WALK_EVERY_SECONDS = 24 * 3600.0
_WALK_SECONDS = 30.0
"""Of the walk at a time, so that what else the thread does comes in between."""
_PAUSE_FACTOR = 2
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)

_SQL = load_statements("percentiles.sql")
_DIMENSIONS = load_statements("dimensions.sql")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("percentiles")

Window = tuple[int, datetime, datetime]
"""A grain in minutes, and the begin and the end of buckets of it."""


class Percentiles:
    """For one thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._walk: Iterator[Window] | None = None
        self._next_walk = time.monotonic()

    def keep(self, stop: Stop) -> None:
        """Keep those of the last hours and days, and some of the walk's. Raises DatabaseUnavailable."""
        with self._database.query() as cur:
            models = next(each for each in list_dimensions(cur) if not each.name)
            tables = {part.grain: part.table for part in models.parts}
            cur.execute(_SQL["over_since"])
            [(until,)] = cur.fetchall()
        today = bucket_start(until, "day")
        hours, days = until - _LATEST_HOURS * _HOUR, today - _LATEST_DAYS * _DAY
        rows = self._keep((HOUR_MINUTES, hours, until), tables, stop)
        rows += self._keep((DAY_MINUTES, days, today), tables, stop)
        rows += self._go_on(until, tables, stop)
        if rows:
            _log.info("percentiles kept", rows=rows)

    def _go_on(self, until: datetime, tables: dict[int, str], stop: Stop) -> int:
        """Go on with the walk, or begin one where it is time, for some seconds; return how many were kept."""
        rows = 0
        deadline = time.monotonic() + _WALK_SECONDS
        if self._walk is None:
            if time.monotonic() < self._next_walk:
                return 0
            with self._database.query() as cur:
                cur.execute(_DIMENSIONS["oldest_day"])
                [(oldest,)] = cur.fetchall()
            self._walk = _windows(until if oldest is None else oldest, until)
        for window in self._walk:
            rows += self._keep(window, tables, stop)
            if stop or time.monotonic() > deadline:
                return rows
        self._walk, self._next_walk = None, time.monotonic() + _WALK_EVERY_SECONDS
        return rows

    def _keep(self, window: Window, tables: dict[int, str], stop: Stop) -> int:
        """Keep those of a window's buckets, in steps, unless another worker is at it; return how many."""
        with self._database.query() as cur:
            org_ids = _organisations(cur, window, tables)
        return sum(self._keep_some(org_id, window, tables, stop) for org_id in org_ids)

    def _keep_some(self, org_id: str | None, window: Window, tables: dict[int, str], stop: Stop) -> int:
        grain, low, high = window
        statement = with_tables(_SQL["keep"], table=tables[grain])
        rows, step = 0, _MAX_ROWS
        while step >= _MAX_ROWS and not stop:
            began = time.monotonic()
            with self._database.transaction() as cur:
                cur.execute(_SQL["try_lock"])
                if cur.fetchone() != (True,):
                    break
                cur.execute(statement, {"org_id": org_id, "low": low, "high": high, "max_rows": _MAX_ROWS})
                step = cur.rowcount
            rows += step
            stop.wait(_PAUSE_FACTOR * (time.monotonic() - began))
        return rows


def _organisations(cur: Cursor, window: Window, tables: dict[int, str]) -> list[str | None]:
    """Return what `keep` may be given: those with buckets to keep, one by one, or None for all at once."""
    if not is_spread(cur):
        return [None]
    grain, low, high = window
    cur.execute(with_tables(_SQL["orgs_to_keep"], table=tables[grain]), {"low": low, "high": high})
    return [org_id for (org_id,) in cur.fetchall()]


def _windows(oldest: datetime, until: datetime) -> Iterator[Window]:
    """Yield each hour and each day that is over, from the newest to the oldest."""
    high = until
    while high > oldest:
        if high == bucket_start(high, "day"):
            yield DAY_MINUTES, high - _DAY, high
        yield HOUR_MINUTES, high - _HOUR, high
        high -= _HOUR
