"""Merges the rows that a group has in the hours of a dimension: rollups append to them and look for none.

Rows of one group add up, so whoever reads may read before, between and after. A merge takes the rows that it
sees and puts one in their place, in one transaction; rows that come meanwhile wait for the next. It is done
where rows have become many while an hour is going on, so that a reader never meets far more rows than groups,
and for each hour before it is added to its day.
"""

from datetime import UTC, datetime, timedelta

import structlog

from rollup_worker.spread import at_once
from shared.pieces import HALF_HOURS
from shared.postgres import Cursor, Database
from shared.process import Stop
from shared.statements import load_statements, with_tables

MIN_ROWS = 2_000
"""Rows of an organisation in an hour from which they are merged."""

_GROWTH = 2
_HOUR = timedelta(hours=1)
_FAR = timedelta(days=3)  # events may be a day ahead

_SQL = load_statements("rollups.sql")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("merge")


class Merge:
    """For one thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # How many rows the last merge left, by table, organisation and hour.
        self._left: dict[tuple[str, str, datetime], int] = {}

    def merge_many(self, table: str, since: datetime, stop: Stop) -> None:
        """Merge each organisation's hour, from `since` on, whose rows have doubled since the last merge.

        Raises DatabaseUnavailable.
        """
        self._left = {key: rows for key, rows in self._left.items() if key[0] != table or key[2] >= since}
        with self._database.query() as cur:
            found = _hours(cur, table, since, since + _FAR, MIN_ROWS)
        for org_id, hour, rows in found:
            if stop:
                return
            if rows >= _GROWTH * self._left.get((table, org_id, hour), 0):
                merged = self._merge(table, org_id, hour)
                if merged is not None:
                    taken, made = merged
                    self._left[table, org_id, hour] = rows - taken + made

    def merge_past(self, table: str, hour: datetime, stop: Stop) -> None:
        """Merge an hour that is over, one organisation after another. Raises DatabaseUnavailable."""
        with self._database.query() as cur:
            found = _hours(cur, table, hour, hour + _HOUR, 2)
        for org_id, _, _ in found:
            if stop:
                return
            self._merge(table, org_id, hour)

    def _merge(self, table: str, org_id: str, hour: datetime) -> tuple[int, int] | None:
        """Merge; None where another worker merges just now, perhaps something else."""
        with self._database.transaction() as cur:
            cur.execute(_SQL["share_rollups"])
            cur.execute(_SQL["try_lock_merge"])
            if cur.fetchone() != (True,):
                return None
            return _merge(cur, table, [org_id], hour)


def merge_rest(cur: Cursor, table: str, hour: datetime) -> None:
    """Merge what has come to an hour since merge_past. The caller keeps rollups out."""
    org_ids = [org_id for org_id, _, _ in _hours(cur, table, hour, hour + _HOUR, 2)]
    for some in at_once(cur, org_ids):
        _merge(cur, table, some, hour)


def _hours(
    cur: Cursor, table: str, since: datetime, until: datetime, min_rows: int
) -> list[tuple[str, datetime, int]]:
    statement = with_tables(_SQL["hours_to_merge"], table=table)
    cur.execute(statement, {"since": since, "until": until, "min_rows": min_rows})
    return cur.fetchall()


def _merge(cur: Cursor, table: str, org_ids: list[str], hour: datetime) -> tuple[int, int]:
    """Merge; return how many rows were taken and how many were made."""
    cur.execute(_SQL["set_work_mem"])
    parameters = {"org_ids": tuple(org_ids), "hour": hour, "halves": hour.astimezone(UTC).hour in HALF_HOURS}
    cur.execute(with_tables(_SQL["merge_hour"], table=table), parameters)
    [(taken, made)] = cur.fetchall()
    if taken:
        _log.info("rows of an hour merged", table=table, hour=hour.isoformat(), rows=taken, groups=made)
    return taken, made
