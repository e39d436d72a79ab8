"""The dimensions that rollups are kept by: which there are, beginning with one, and dropping one.

The list is a table, not this process's settings: every rollup adds to what the table lists when it begins, so
workers with different settings leave no hole. The settings only ever add to it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog

from rollup_worker.spread import keep_rollups_out
from shared.pieces import DAY_MINUTES, HALF_HOURS, HALF_MINUTES, HOUR_MINUTES
from shared.postgres import Cursor, Database
from shared.settings import KeptDimension
from shared.statements import load_statements

ERROR_CODE = "errorCode"
PROVIDER = "provider"
_METADATA = "metadata."
_SQL = load_statements("dimensions.sql")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("dimensions")


class Part(NamedTuple):
    """A table of rollups, its grain in minutes, and which hours it holds: [since, until), None for no end."""

    table: str
    grain: int
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Dimension:
    """A row of analytics.rollup_dimensions, which explains each field. The name is '' for models alone."""

    name: str
    groupable: bool
    hours_table: str
    days_table: str
    keeps_hours: bool
    hours_kept: timedelta | None
    complete_since: datetime | None
    days_until: datetime | None
    holes: int
    halves_table: str | None
    halves_since: datetime | None

    @property
    def parts(self) -> list[Part]:
        """Its first halves of hours, where they have a table, its hours and its days.

        Where only days are kept, of the hours those that are not in them yet.
        """
        halves = [Part(self.halves_table, HALF_MINUTES)] if self.halves_table else []
        since = None if self.keeps_hours else self.days_until
        return [
            *halves,
            Part(self.hours_table, HOUR_MINUTES, since=since),
            Part(self.days_table, DAY_MINUTES, until=self.days_until),
        ]

    @property
    def keeps_halves(self) -> bool:
        """Whether the halves of hours are in its hours, in rows of their own."""
        return self.keeps_hours and self.halves_table is None


def list_dimensions(cur: Cursor) -> list[Dimension]:
    """Return what is kept, in the order in which every transaction adds to it."""
    cur.execute(_SQL["list"])
    return [Dimension(*row) for row in cur.fetchall()]


def fields_needed(dimensions: list[Dimension]) -> dict[str, object]:
    """Return the parameters that say which fields of events they need gathered, and which halves of hours."""
    names = [dimension.name for dimension in dimensions if dimension.groupable]
    return {
        "with_values": any(not name.startswith(_METADATA) for name in names),
        "with_metadata": any(name.startswith(_METADATA) for name in names),
        "half_hours": list(HALF_HOURS),
    }


def keep_dimensions(database: Database, wanted: tuple[KeptDimension, ...]) -> None:
    """Begin to keep those that are not kept yet, and set how long hours are kept.

    What is kept and not wanted, or kept without the hours that are wanted, stays as it is and is logged.
    Raises DatabaseUnavailable; DatabaseBusy while a long read holds the tables.
    """
    with database.transaction() as cur:
        kept = {dimension.name: dimension for dimension in list_dimensions(cur)}
        if any(each.name not in kept for each in wanted):
            keep_rollups_out(cur)
        for each in wanted:
            parameters = {
                "name": each.name,
                "keeps_hours": each.keeps_hours,
                "hours_kept": each.hours_kept,
            }
            if each.name not in kept:
                cur.execute(_SQL["add"], parameters)
                _log.info("dimension is kept from now on", dimension=each.name, hours=each.keeps_hours)
            elif each.keeps_hours:
                cur.execute(_SQL["set_hours_kept"], parameters)
    for name in sorted(
        {name for name, each in kept.items() if each.groupable} - {each.name for each in wanted}
    ):
        _log.warning(
            "dimension is kept though ROLLUP_DIMENSIONS lacks it; drop-dimension drops it", dimension=name
        )
    for each in wanted:
        known = kept.get(each.name)
        if known and each.keeps_hours != known.keeps_hours:
            _log.warning(
                "dimension keeps hours or not as it began; drop it and backfill it to change that",
                dimension=each.name,
                keeps_hours=known.keeps_hours,
            )


def drop_dimension(database: Database, name: str) -> bool:
    """Drop a dimension with all of its rollups; False when it is not kept. Raises DatabaseUnavailable."""
    with database.transaction() as cur:
        keep_rollups_out(cur)
        cur.execute(_SQL["drop"], {"name": name})
        [(dropped,)] = cur.fetchall()
    return bool(dropped)
