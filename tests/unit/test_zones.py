"""Local buckets: every zone, both changes of the clocks, and the nights that have no midnight."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.buckets import widen
from shared.zones import (
    GRANULARITIES,
    boundaries,
    day_start,
    local_text,
    previous,
    whole_days,
    zone,
    zone_names,
)

_FROM, _TO = datetime(2012, 1, 1), datetime(2036, 12, 31)  # noqa: DTZ001  hypothesis wants them naive
instants = st.datetimes(_FROM, _TO, timezones=st.just(UTC))
zones = st.sampled_from(sorted(zone_names())).map(zone)
spans = st.timedeltas(timedelta(seconds=1), timedelta(days=40))
HOUR = timedelta(hours=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def texts(start: str, end: str, granularity: str, name: str) -> list[str]:
    tz = zone(name)
    return [local_text(at, tz) for at in boundaries(utc(start), utc(end), granularity, tz)]


@given(instants, spans, zones, st.sampled_from(GRANULARITIES))
def test_buckets_cover_the_window_without_a_gap_and_no_more_than_touch_it(
    start: datetime, span: timedelta, tz: ZoneInfo, granularity: str
) -> None:
    end = start + span
    found = boundaries(start, end, granularity, tz)
    assert found[0] <= start < found[1]
    assert found[-2] < end <= found[-1]
    assert all(before < after for before, after in pairwise(found))
    assert boundaries(found[0], found[-1], granularity, tz) == found


@given(instants, spans, zones)
def test_each_local_day_holds_the_instants_of_its_date(
    start: datetime, span: timedelta, tz: ZoneInfo
) -> None:
    for begin, end in pairwise(boundaries(start, start + span, "day", tz)):
        day = begin.astimezone(tz).date()
        assert (begin - timedelta(microseconds=1)).astimezone(tz).date() < day
        assert (end - timedelta(microseconds=1)).astimezone(tz).date() == day
        assert end.astimezone(tz).date() > day


@given(instants, spans, zones)
def test_weeks_begin_on_mondays_and_months_on_firsts_at_the_start_of_the_day(
    start: datetime, span: timedelta, tz: ZoneInfo
) -> None:
    for granularity in ("week", "month"):
        for at in boundaries(start, start + span, granularity, tz):
            day = at.astimezone(tz).date()
            assert at == day_start(day, tz)
            assert day.weekday() == 0 if granularity == "week" else day.day == 1


@given(instants, st.timedeltas(timedelta(seconds=1), timedelta(days=3)), zones)
def test_hours_begin_where_clocks_show_a_full_hour(start: datetime, span: timedelta, tz: ZoneInfo) -> None:
    found = boundaries(start, start + span, "hour", tz)
    assert all((at.astimezone(tz).minute, at.astimezone(tz).second) == (0, 0) for at in found)
    assert all(after - before in {HOUR, 1.5 * HOUR} for before, after in pairwise(found))


@given(instants, spans, st.sampled_from(("hour", "day")))
def test_utc_is_as_it_was(start: datetime, span: timedelta, grain: str) -> None:
    found = boundaries(start, start + span, grain, zone("UTC"))
    assert (found[0], found[-1]) == widen(start, start + span, grain)


@pytest.mark.parametrize(
    ("name", "day", "hours"),
    [
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("Africa/Cairo", "2026-04-24", 23),
        ("Asia/Beirut", "2026-03-29", 23),
        ("America/Havana", "2026-03-08", 23),
        ("America/Havana", "2024-11-03", 25),
        ("Asia/Kolkata", "2026-03-08", 24),
    ],
)
def test_days_have_the_length_that_the_clocks_make(name: str, day: str, hours: float) -> None:
    tz, first = zone(name), date.fromisoformat(day)
    assert day_start(first + timedelta(days=1), tz) - day_start(first, tz) == hours * HOUR


@pytest.mark.parametrize(
    ("name", "day", "text"),
    [
        ("Africa/Cairo", "2026-04-24", "2026-04-24T01:00:00+03:00"),
        ("Asia/Beirut", "2026-03-29", "2026-03-29T01:00:00+03:00"),
        ("America/Havana", "2026-03-08", "2026-03-08T01:00:00-04:00"),
        ("America/Havana", "2024-11-03", "2024-11-03T00:00:00-04:00"),
        ("America/Toronto", "1919-03-31", "1919-03-31T00:30:00-04:00"),
    ],
)
def test_a_day_without_a_midnight_begins_with_the_change(name: str, day: str, text: str) -> None:
    assert local_text(day_start(date.fromisoformat(day), zone(name)), zone(name)) == text


def test_a_date_that_was_left_out_has_no_bucket() -> None:
    assert texts("2011-12-29T12:00:00Z", "2012-01-01T00:00:00Z", "day", "Pacific/Apia") == [
        "2011-12-29T00:00:00-10:00",
        "2011-12-31T00:00:00+14:00",
        "2012-01-01T00:00:00+14:00",
        "2012-01-02T00:00:00+14:00",
    ]


def test_zones_of_half_and_quarter_hours_have_their_own_hours_and_days() -> None:
    assert texts("2026-11-01T00:00:00Z", "2026-11-01T01:00:00Z", "hour", "Asia/Kolkata") == [
        "2026-11-01T05:00:00+05:30",
        "2026-11-01T06:00:00+05:30",
        "2026-11-01T07:00:00+05:30",
    ]
    assert texts("2026-11-01T00:00:00Z", "2026-11-01T01:00:00Z", "day", "Asia/Kathmandu") == [
        "2026-11-01T00:00:00+05:45",
        "2026-11-02T00:00:00+05:45",
    ]


def test_an_hour_that_lord_howe_changes_within_is_one_of_ninety_minutes() -> None:
    assert texts("2026-04-04T14:30:00Z", "2026-04-04T16:00:00Z", "hour", "Australia/Lord_Howe") == [
        "2026-04-05T01:00:00+11:00",
        "2026-04-05T02:00:00+10:30",
        "2026-04-05T03:00:00+10:30",
    ]
    assert texts("2026-10-03T15:40:00Z", "2026-10-03T16:10:00Z", "hour", "Australia/Lord_Howe") == [
        "2026-10-04T01:00:00+10:30",
        "2026-10-04T03:00:00+11:00",
        "2026-10-04T04:00:00+11:00",
    ]


def test_total_is_one_bucket_of_full_hours_or_of_days() -> None:
    window = utc("2026-11-01T00:20:00Z"), utc("2026-11-02T07:10:00Z")
    tz = zone("Asia/Kolkata")
    assert [local_text(at, tz) for at in boundaries(*window, "total", tz)] == [
        "2026-11-01T05:00:00+05:30",
        "2026-11-02T13:00:00+05:30",
    ]
    assert [local_text(at, tz) for at in whole_days(*window, tz)] == [
        "2026-11-01T00:00:00+05:30",
        "2026-11-03T00:00:00+05:30",
    ]


def test_only_zones_of_the_pinned_package_have_names() -> None:
    for name in ("", "Mars/Base", "europe/berlin", "../etc/passwd", "Europe/", "Europe/Berlin\0", "UTC+1"):
        with pytest.raises(ValueError, match="there is no time zone"):
            zone(name)
    assert {"UTC", "Asia/Kolkata", "US/Pacific", "Etc/GMT+5"} <= zone_names()
    for name in zone_names():
        assert zone(name).key == name


def test_the_window_before_has_as_many_days_though_clocks_change() -> None:
    tz = zone("America/New_York")
    start, end = (day_start(date(2026, 11, day), tz) for day in (1, 8))
    assert end - start == 169 * HOUR
    assert previous(start, end, tz) == day_start(date(2026, 10, 25), tz)
    assert previous(start + HOUR, end, tz) == start + HOUR - 168 * HOUR


def test_utc_is_written_with_a_z_and_every_other_zone_with_its_offset() -> None:
    at = utc("2026-11-01T00:00:00Z")
    assert local_text(at, zone("UTC")) == "2026-11-01T00:00:00Z"
    assert local_text(at, zone("Europe/London")) == "2026-11-01T00:00:00+00:00"
    assert local_text(at, zone("Asia/Kolkata")) == "2026-11-01T05:30:00+05:30"
