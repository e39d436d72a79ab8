"""Which stored sums make up local buckets, with as few of them read as can be.

Stored are sums of UTC days, of UTC hours, and of the first 30 minutes of some; the first minutes of others
are in raw events alone. A local day is the UTC day nearest to it, less the hours by which it begins later,
and with those by which it ends later: in Kolkata one day and eleven hours or half hours in place of
forty-eight. All sums subtract exactly, counts, tokens, costs and histogram bins alike.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from shared.buckets import bucket_start

DAY_MINUTES = 1440
HOUR_MINUTES = 60
HALF_MINUTES = 30
HALF_HOURS = (2, 3, 9, 13, 14, 17, 18, 19, 20)
"""The hours of UTC in whose middle a day of some zone begins, of which first halves are kept."""

PART_MINUTES = (15, 30)
"""Of the hour that a part's bucket_start names, the part holds the first minutes."""

_HALF_DAY = timedelta(hours=12)
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)


class Piece(NamedTuple):
    """The sums of one grain (minutes) with low <= bucket_start < high, in UTC.

    They are added to bucket `plus` and taken from bucket `minus`, each by its number or None.
    """

    grain: int
    low: datetime
    high: datetime
    plus: int | None
    minus: int | None


class NotKept(Exception):
    """Boundaries at which no sums are kept: of a zone whose offset is no multiple of a quarter hour, or of
    hours where only days are kept.
    """


def pieces(boundaries: Sequence[datetime], *, days: bool, hours: bool) -> list[Piece]:
    """Return the pieces of the buckets between boundaries (UTC, ascending).

    days, hours: which sums may be used; with days but without hours, every boundary must be a midnight in
    UTC. Raises NotKept.
    """
    if days and hours and len(boundaries) == 2:
        ways = [list(_pieces(boundaries, days=by_day, hours=True)) for by_day in (True, False)]
        return min(ways, key=_rows)
    return list(_pieces(boundaries, days=days, hours=hours))


def _rows(found: Sequence[Piece]) -> int:
    """Return how many sums a model has in the pieces, at most."""
    return sum((piece.high - piece.low) // (piece.grain * _MINUTE) for piece in found)


def _pieces(boundaries: Sequence[datetime], *, days: bool, hours: bool) -> Iterator[Piece]:
    grain = DAY_MINUTES if days else HOUR_MINUTES
    anchors = [_nearest_day(at) if days else bucket_start(at, "hour") for at in boundaries]
    for number, (low, high) in enumerate(pairwise(anchors)):
        if low < high:
            yield Piece(grain, low, high, number, None)
    last = len(boundaries) - 1
    for number, (at, anchor) in enumerate(zip(boundaries, anchors, strict=True)):
        before = number - 1 if number else None
        after = number if number < last else None
        yield from _edge(at, anchor, before, after, hours=hours)


def _edge(
    at: datetime, anchor: datetime, before: int | None, after: int | None, *, hours: bool
) -> Iterator[Piece]:
    """Yield what moves the boundary between two buckets from an anchor to its place."""
    if at == anchor:
        return
    if not hours:
        raise NotKept("only days are kept, and they begin at midnight in UTC")
    hour = bucket_start(at, "hour")
    if anchor < hour:
        yield Piece(HOUR_MINUTES, anchor, hour, before, after)
    elif hour < anchor:
        yield Piece(HOUR_MINUTES, hour, anchor, after, before)
    if at == hour:
        return
    minutes, rest = divmod(at - hour, _MINUTE)
    if rest or minutes not in PART_MINUTES:
        raise NotKept("the zone's offset then was not a multiple of a quarter hour")
    yield Piece(minutes, hour, hour + _HOUR, before, after)


def _nearest_day(at: datetime) -> datetime:
    day = bucket_start(at.astimezone(UTC), "day")
    return day if at - day <= _HALF_DAY else day + _DAY
