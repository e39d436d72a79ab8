"""The parts of analytics.rollups, one for each dimension and grain: add gathered events, clear a day."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from rollup_worker.dimensions import ERROR_CODE, Dimension, fields_needed
from shared.pieces import DAY_MINUTES, HOUR_MINUTES
from shared.postgres import Cursor
from shared.statements import load_statements, with_tables

_SQL = load_statements("rollups.sql")
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


def add_gathered(cur: Cursor, dimensions: Sequence[Dimension], *, oldest: datetime) -> int:
    """Add the events of the table `gathered`, none older than this, to the dimensions' parts.

    The dimensions in the order of list_dimensions. Returns how many rows of days were added or changed.
    """
    days = 0
    for dimension in dimensions:
        for table, grain, until in dimension.parts:
            if until is not None and oldest >= until:
                continue
            name = "add_error_codes" if dimension.name == ERROR_CODE else "add"
            if dimension.groupable and grain == HOUR_MINUTES:
                name = "append"
            parameters = {"dimension": dimension.name, "grain": grain, "until": until}
            cur.execute(with_tables(_SQL[name], table=table), parameters)
            days += cur.rowcount if grain == DAY_MINUTES else 0
    return days


def make_day_again(cur: Cursor, dimensions: list[Dimension], day: datetime, org_ids: list[str]) -> int:
    """Clear a UTC day of some organisations in these dimensions and add what its raw events say, by hour.

    The caller keeps rollups and the dropping of days out. Returns how many rows of days were added or
    changed.
    """
    for dimension in dimensions:
        for table, _, _ in dimension.parts:
            cur.execute(
                with_tables(_SQL["clear_day"], table=table),
                {"day": day, "next_day": day + _DAY, "org_ids": org_ids},
            )
    cur.execute(_SQL["set_temp_buffers"])
    cur.execute(_SQL["set_work_mem"])
    cur.execute(_SQL["create_gathered"])
    made = 0
    for number in range(24):
        hour = day + number * _HOUR
        cur.execute(_SQL["empty_gathered"])
        cur.execute(
            _SQL["gather_hour"],
            {"hour": hour, "next_hour": hour + _HOUR, "org_ids": org_ids} | fields_needed(dimensions),
        )
        if cur.rowcount:
            made += add_gathered(cur, dimensions, oldest=hour)
    return made
