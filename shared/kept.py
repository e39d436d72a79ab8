"""What the rollups keep: the dimensions that cuts may ask for, and how far back."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.cut import Cut
from shared.errors import DatabaseUnavailable
from shared.pieces import NotKept
from shared.postgres import Cursor
from shared.statements import load_statements

_SQL = load_statements("cuts.sql")


@dataclass(frozen=True)
class Kept:
    """A dimension that the rollups keep; '' are the models alone. See analytics.rollup_dimensions."""

    name: str
    groupable: bool
    keeps_hours: bool
    hours_kept: timedelta | None
    complete_since: datetime | None
    days_until: datetime | None
    kept_since: datetime | None
    halves_since: datetime | None
    halves_in_hours: bool
    moves: int | None = None


KEPT = _SQL["kept"]
"""The statement that a transaction begins with which reads cuts."""


def read_kept(cur: Cursor) -> dict[str, Kept]:
    """Return what the rollups keep, by name, and make the transaction one that reads cuts."""
    cur.execute(KEPT)
    return fetch_kept(cur)


def fetch_kept(cur: Cursor) -> dict[str, Kept]:
    """Return the same where KEPT has just been run."""
    return {row[0]: Kept(*row[:10]) for row in cur.fetchall()}


def fetch_moved(cur: Cursor, cut: Cut) -> dict[str, Kept]:
    """Return what fetch_kept does, for a transaction that reads nothing before but a cut.

    Raises DatabaseUnavailable where a node of a Citus cluster may hold more hours in its days than that says,
    or less. It is so for a moment each hour: to try again is enough.
    """
    kept = fetch_kept(cur)
    moves, dimension = kept[""].moves, kept.get(cut.dimension)
    if moves is None or dimension is None or dimension.days_until is None:
        return kept
    if cut.org_ids:
        cur.execute(_SQL["see_node"], {"org_ids": cut.org_ids})
    cur.execute(_SQL["day_moves"])
    if cur.fetchone() != (moves,):
        raise DatabaseUnavailable("an hour is being added to its day just now")
    return kept


class DimensionNotKept(NotKept):
    """The dimension of a cut is not kept, or not by the hour. The message says which are."""


def check_kept(cut: Cut, kept: Mapping[str, Kept]) -> None:
    """Raise DimensionNotKept where a cut asks for a dimension that is not kept, or not by the hour."""
    if not cut.dimension:
        return
    known = kept.get(cut.dimension)
    if known is None or not known.groupable:
        raise DimensionNotKept(f"{cut.dimension} is not kept as a dimension; kept are {in_words(kept)}")
    if cut.granularity == "hour" and not known.keeps_hours:
        raise DimensionNotKept(f"{cut.dimension} is kept by day only; kept are {in_words(kept)}")


def in_words(kept: Mapping[str, Kept]) -> str:
    """Name the dimensions that are kept, and how far."""
    return ", ".join(_named(each) for each in kept.values() if each.groupable) or "none"


def _named(kept: Kept) -> str:
    if not kept.keeps_hours:
        return f"{kept.name} (days only)"
    return f"{kept.name} (hours for {kept.hours_kept.days} days)" if kept.hours_kept else kept.name
