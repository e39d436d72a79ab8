"""The pieces of a bucket add up to its minutes, each once, with few rows read."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.pieces import (
    DAY_MINUTES,
    HALF_HOURS,
    HALF_MINUTES,
    HOUR_MINUTES,
    NotKept,
    Piece,
    pieces,
)
from shared.zones import boundaries, day_start, zone, zone_names

QUARTER = timedelta(minutes=15)
_FROM, _TO = datetime(2012, 1, 1), datetime(2036, 12, 31)  # noqa: DTZ001  hypothesis wants them naive
instants = st.datetimes(_FROM, _TO, timezones=st.just(UTC))
zones = st.sampled_from(sorted(zone_names())).map(zone)


def quarters(piece: Piece) -> list[datetime]:
    """Return the quarter hours of UTC that a piece's sums hold."""
    width = timedelta(minutes=piece.grain)
    step = max(width, timedelta(hours=1))  # a part has one row an hour
    assert (piece.high - piece.low) % step == timedelta(0)
    found, at = [], piece.low
    while at < piece.high:
        found += [at + number * QUARTER for number in range(width // QUARTER)]
        at += step
    return found


def covered(found: list[Piece]) -> dict[int, Counter[datetime]]:
    sums: dict[int, Counter[datetime]] = {}
    for piece in found:
        for bucket, sign in ((piece.plus, 1), (piece.minus, -1)):
            if bucket is not None:
                counts = sums.setdefault(bucket, Counter())
                for quarter in quarters(piece):
                    counts[quarter] += sign
    return sums


@settings(deadline=None)
@given(
    instants,
    st.timedeltas(timedelta(seconds=1), timedelta(days=9)),
    zones,
    st.sampled_from(("hour", "day", "week", "total")),
)
def test_the_pieces_of_each_bucket_are_its_quarter_hours_once_each(
    start: datetime, span: timedelta, tz: ZoneInfo, granularity: str
) -> None:
    edges = boundaries(start, start + span, granularity, tz)
    sums = covered(pieces(edges, days=granularity != "hour", hours=True))
    for bucket, (begin, end) in enumerate(pairwise(edges)):
        wanted = {begin + number * QUARTER: 1 for number in range((end - begin) // QUARTER)}
        assert {quarter: count for quarter, count in sums[bucket].items() if count} == wanted


def rows(found: list[Piece]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for piece in found:
        counts[piece.grain] += (piece.high - piece.low) // timedelta(minutes=max(piece.grain, HOUR_MINUTES))
    return counts


@pytest.mark.parametrize(
    ("name", "hours", "parts"),
    [("UTC", 0, 0), ("America/New_York", 5, 0), ("Asia/Kolkata", 6, 1), ("Asia/Tokyo", 9, 0)],
)
def test_a_local_day_reads_a_utc_day_and_the_hours_between_the_midnights(
    name: str, hours: int, parts: int
) -> None:
    tz = zone(name)
    edges = [day_start(date(2026, 11, 2) + timedelta(days=number), tz) for number in range(31)]
    counts = rows(pieces(edges, days=True, hours=True))
    assert counts[DAY_MINUTES] == 30
    assert counts[HOUR_MINUTES] == 31 * hours
    assert counts[30] == 31 * parts


def test_halves_are_kept_of_the_hours_in_whose_middle_a_day_begins_somewhere() -> None:
    months = [date(year, month, 15) for year in (2026, 2027) for month in range(1, 13)]
    begins = {day_start(day, zone(name)) for day in months for name in zone_names()}
    assert {at.hour for at in begins if at.minute == HALF_MINUTES} == set(HALF_HOURS)


def test_a_window_of_few_hours_reads_only_those() -> None:
    edges = [datetime(2026, 11, 1, hour, tzinfo=UTC) for hour in (10, 13)]
    assert rows(pieces(edges, days=True, hours=True)) == {HOUR_MINUTES: 3}
    long = [datetime(2026, 11, 1, 2, tzinfo=UTC), datetime(2026, 11, 20, 22, tzinfo=UTC)]
    assert rows(pieces(long, days=True, hours=True)) == {DAY_MINUTES: 20, HOUR_MINUTES: 4}


def test_where_only_days_are_kept_other_boundaries_are_refused() -> None:
    midnights = [datetime(2026, 11, day, tzinfo=UTC) for day in (1, 2, 9)]
    assert rows(pieces(midnights, days=True, hours=False)) == {DAY_MINUTES: 8}
    with pytest.raises(NotKept):
        pieces([midnights[0], midnights[1] + timedelta(hours=1)], days=True, hours=False)


def test_offsets_that_are_no_quarter_hours_are_refused() -> None:
    tz = zone("Africa/Monrovia")  # 44 minutes and 30 seconds behind until 1972
    with pytest.raises(NotKept):
        pieces([day_start(date(1971, 1, day), tz) for day in (1, 2)], days=True, hours=True)
