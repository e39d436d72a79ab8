"""Buckets of local time: hours, days, weeks and months of any IANA zone, as their boundaries in UTC.

The rules are those of the pinned tzdata package. The machine's own are never asked, nor PostgreSQL's: two
sets of rules in one answer would differ on the night a government changes its mind.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from zoneinfo import ZoneInfo

from shared.buckets import GRAINS, rfc3339, widen

GRANULARITIES = ("hour", "day", "week", "month", "total")

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Return the name of every zone there is."""
    return frozenset((files("tzdata") / "zones").read_text(encoding="utf-8").split())


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """Return the zone of an IANA name, letter by letter. Raises ValueError for any other text."""
    if name not in zone_names():
        raise ValueError(f"there is no time zone {name!r}")
    with (files("tzdata") / "zoneinfo" / name).open("rb") as rules:
        return ZoneInfo.from_file(rules, key=name)


ZONE_UTC = zone("UTC")


def boundaries(start: datetime, end: datetime, granularity: str, tz: ZoneInfo) -> list[datetime]:
    """Return the boundaries, in UTC and ascending, of the buckets that touch [start, end).

    Bucket i is [boundaries[i], boundaries[i + 1]). Days, weeks (from Monday) and months begin at the first
    instant of their local date; hours at the instants at which the zone's clocks show a full hour; `total`
    is one bucket from the full hour before start to the one after end.
    Raises OverflowError near the calendar's ends.
    """
    if granularity == "total":
        return [_hour_start(start, tz), _hour_end(end, tz)]
    if tz.key == "UTC" and granularity in GRAINS:
        first, last = widen(start, end, granularity)
        step = GRAINS[granularity]
        return [first + number * step for number in range((last - first) // step + 1)]
    if granularity == "hour":
        return _hours(start, end, tz)
    return _dates(start, end, _FIRST_DATE[granularity], _NEXT_DATE[granularity], tz)


def whole_days(start: datetime, end: datetime, tz: ZoneInfo) -> list[datetime]:
    """Return the one bucket of the local days that touch [start, end)."""
    days = boundaries(start, end, "day", tz)
    return [days[0], days[-1]]


def previous(start: datetime, end: datetime, tz: ZoneInfo) -> datetime:
    """Return when the window of the same local length begins that ends at start.

    Whole local days are counted as days, so the week before the clocks change is compared with the week
    after; what begins or ends at another hour is counted in elapsed time.
    """
    first, last = start.astimezone(tz).date(), end.astimezone(tz).date()
    if day_start(first, tz) == start and day_start(last, tz) == end:
        return day_start(first - (last - first), tz)
    return start - (end - start)


def local_text(instant: datetime, tz: ZoneInfo) -> str:
    """Write an instant in RFC 3339 with the zone's offset then; UTC as `Z`."""
    return rfc3339(instant) if tz.key == "UTC" else instant.astimezone(tz).isoformat()


@lru_cache(maxsize=4096)  # some hundred kilobytes; the same days are asked for again and again
def day_start(day: date, tz: ZoneInfo) -> datetime:
    """Return the first instant of a local date, in UTC.

    Where clocks are put back over midnight that is the first of the two midnights. Where midnight is
    skipped it is the instant of the change.
    """
    midnight = datetime.combine(day, time(), tz)
    found = midnight.astimezone(UTC)
    if found.astimezone(tz).replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return found
    # The wall clock jumps over midnight between these two: read with the offset after it, and before it.
    before, after = midnight.replace(fold=1).astimezone(UTC), found
    old = before.astimezone(tz).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) // _SECOND // 2 * _SECOND
        if middle.astimezone(tz).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after


def _dates(
    start: datetime,
    end: datetime,
    first_of: Callable[[date], date],
    next_of: Callable[[date], date],
    tz: ZoneInfo,
) -> list[datetime]:
    day = first_of(start.astimezone(tz).date())
    found = [day_start(day, tz)]
    while found[-1] < end:
        day = next_of(day)
        found.append(day_start(day, tz))
    # A date that a zone left out (Apia, 30 December 2011) has no instant and no bucket.
    return found[:1] + [after for before, after in pairwise(found) if before < after]


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


_FIRST_DATE: dict[str, Callable[[date], date]] = {
    "day": lambda day: day,
    "week": lambda day: day - timedelta(days=day.weekday()),
    "month": lambda day: day.replace(day=1),
}
_NEXT_DATE: dict[str, Callable[[date], date]] = {
    "day": lambda day: day + _DAY,
    "week": lambda day: day + timedelta(weeks=1),
    "month": _next_month,
}


def _past_the_hour(instant: datetime, tz: ZoneInfo) -> timedelta:
    """Return how long ago the zone's clocks, had they not been changed since, showed a full hour."""
    wall = instant.astimezone(tz)
    return timedelta(minutes=wall.minute, seconds=wall.second, microseconds=wall.microsecond)


def _hour_start(instant: datetime, tz: ZoneInfo) -> datetime:
    """Return the last instant, at or before this one, at which the zone's clocks showed a full hour."""
    instant = instant.astimezone(UTC)
    while past := _past_the_hour(instant, tz):
        instant -= past  # once more where a change of half an hour lies between, as on Lord Howe Island
    return instant


def _next_hour(hour: datetime, tz: ZoneInfo) -> datetime:
    later = hour + _HOUR
    past = _past_the_hour(later, tz)
    return later + (_HOUR - past) if past else later


def _hour_end(instant: datetime, tz: ZoneInfo) -> datetime:
    hour = _hour_start(instant, tz)
    return hour if hour == instant else _next_hour(hour, tz)


def _hours(start: datetime, end: datetime, tz: ZoneInfo) -> list[datetime]:
    found = [_hour_start(start, tz)]
    while found[-1] < end:
        found.append(_next_hour(found[-1], tz))
    return found
