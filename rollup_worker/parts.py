"""The parts of analytics.rollups, one for each dimension and grain: add gathered events, clear a day."""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from rollup_worker.dimensions import ERROR_CODE, PROVIDER, Dimension, Part, fields_needed
from rollup_worker.spread import shown
from shared.pieces import DAY_MINUTES, HALF_HOURS, HOUR_MINUTES
from shared.postgres import Cursor
from shared.statements import load_statements, with_tables

MIN_SHARE = 2 / 3
"""Groups by event from which a row is appended for each event and none is grouped."""

_SQL = load_statements("rollups.sql")
_KNOWN_SECONDS = 60.0
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


class Shares:
    """How many groups an event made, by dimension, where events were last grouped. For any thread.

    The more events are grouped at once, the fewer groups each makes: at worst the share that is lost grows as
    they do. What is known is forgotten after a minute, since traffic changes.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, int, float]] = {}

    def note(self, dimension: str, *, events: int, groups: int) -> None:
        """Note that so many events made so many groups."""
        self._known[dimension] = groups / events, events, time.monotonic()

    def nearly_each(self, dimension: str, events: int) -> bool:
        """Return whether nearly each of so many events is a group of its own."""
        share, of, noted_at = self._known.get(dimension, (0.0, 1, 0.0))
        if time.monotonic() - noted_at > _KNOWN_SECONDS:
            return False
        return 1 - (1 - share) * max(1.0, events / of) >= MIN_SHARE


def create_tables(cur: Cursor) -> None:
    """Make the transaction one that gathers events: memory, and the temporary tables."""
    cur.execute(_SQL["set_temp_buffers"])
    cur.execute(_SQL["set_work_mem"])
    cur.execute(_SQL["create_gathered"])
    cur.execute(_SQL["create_summed"])


def add_gathered(
    cur: Cursor, dimensions: Sequence[Dimension], *, events: int, oldest: datetime, shares: Shares
) -> int:
    """Add the events of the table `gathered`, so many and none older than this, to the dimensions' parts.

    The dimensions in the order of list_dimensions. Returns how many rows of days were added or changed.
    """
    if any(dimension.name in ("", PROVIDER) for dimension in dimensions):
        cur.execute(_SQL["sum_models"])
    parts = [(dimension, part) for dimension in dimensions for part in dimension.parts]
    days = 0
    # Those that take rows as they come first: for the others another worker may have to wait until the end.
    for dimension, (table, grain, since, until) in sorted(parts, key=lambda each: not _is_appended(*each)):
        if until is not None and oldest >= until:
            continue
        name = _statement(dimension, grain)
        if name == "append" and shares.nearly_each(dimension.name, events):
            name = "append_each"
        parameters = {
            "dimension": dimension.name,
            "grain": grain,
            "since": since,
            "until": until,
            "halves": dimension.keeps_halves and grain == HOUR_MINUTES,
            "half_hours": list(HALF_HOURS),
        }
        cur.execute(with_tables(_SQL[name], table=table), parameters)
        if name == "append":
            shares.note(dimension.name, events=events, groups=cur.rowcount)
        days += cur.rowcount if grain == DAY_MINUTES else 0
    return days


def _is_appended(dimension: Dimension, part: Part) -> bool:
    return dimension.groupable and part.grain == HOUR_MINUTES


def _statement(dimension: Dimension, grain: int) -> str:
    if not dimension.name:
        return "add_models"
    if dimension.name == ERROR_CODE:
        return "add_error_codes"
    if dimension.name == PROVIDER and grain == HOUR_MINUTES:
        return "append_providers"
    return "append" if grain == HOUR_MINUTES else "add"


def make_day_again(cur: Cursor, dimensions: list[Dimension], day: datetime, org_ids: list[str]) -> int:
    """Clear a UTC day of some organisations in these dimensions and add what its raw events say, by hour.

    The caller keeps rollups and the dropping of days out. Returns how many rows of days were added or
    changed.
    """
    for dimension in dimensions:
        for part in dimension.parts:
            cur.execute(
                with_tables(_SQL["clear_day"], table=part.table),
                {"day": day, "next_day": day + _DAY, "org_ids": org_ids},
            )
    create_tables(cur)
    parameters = {"org_ids": org_ids} | shown(cur) | fields_needed(dimensions)
    made = 0
    for number in range(24):
        hour = day + number * _HOUR
        cur.execute(_SQL["empty_gathered"])
        cur.execute(_SQL["gather_hour"], parameters | {"hour": hour, "next_hour": hour + _HOUR})
        if cur.rowcount:
            made += add_gathered(cur, dimensions, events=cur.rowcount, oldest=hour, shares=Shares())
    return made
