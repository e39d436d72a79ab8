"""Buckets are UTC, half-open, and windows widen to whole ones."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.buckets import GRAINS, bucket_start, rfc3339, widen

instants = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.just(UTC))  # noqa: DTZ001


def test_a_window_widens_to_the_days_it_touches() -> None:
    start, end = datetime(2025, 11, 1, tzinfo=UTC), datetime(2025, 11, 7, 23, 59, 59, tzinfo=UTC)
    assert widen(start, end, "day") == (start, datetime(2025, 11, 8, tzinfo=UTC))


def test_an_end_on_a_boundary_stays() -> None:
    start, end = datetime(2025, 11, 1, 5, tzinfo=UTC), datetime(2025, 11, 1, 6, tzinfo=UTC)
    assert widen(start, end, "hour") == (start, end)


def test_a_bucket_is_utc_whatever_the_offset() -> None:
    half_past_midnight_in_india = datetime(
        2025, 11, 2, 0, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))
    )
    assert widen(half_past_midnight_in_india, half_past_midnight_in_india + timedelta(hours=1), "day") == (
        datetime(2025, 11, 1, tzinfo=UTC),
        datetime(2025, 11, 2, tzinfo=UTC),
    )


@given(instants, st.sampled_from(sorted(GRAINS)))
def test_every_instant_lies_in_its_bucket(instant: datetime, grain: str) -> None:
    start = bucket_start(instant, grain)
    assert start <= instant < start + GRAINS[grain]
    assert bucket_start(start, grain) == start


@given(instants, instants, st.sampled_from(sorted(GRAINS)))
def test_widening_twice_is_widening_once(one: datetime, other: datetime, grain: str) -> None:
    start, end = sorted((one, other))
    widened = widen(start, end, grain)
    assert widened[0] <= start
    assert widened[1] >= end
    assert widen(*widened, grain) == widened


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2025, 11, 1, tzinfo=UTC), "2025-11-01T00:00:00Z"),
        (datetime(2025, 11, 1, 0, 0, 0, 500, tzinfo=UTC), "2025-11-01T00:00:00.000500Z"),
    ],
)
def test_times_are_written_with_a_z(instant: datetime, text: str) -> None:
    assert rfc3339(instant) == text
