"""Latency histograms: every percentile within 1%, of one histogram or of any union."""

from bisect import bisect_left
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.latency_histogram import (
    BIN_LOW_MS,
    BIN_VALUE_MS,
    MAX_LATENCY_MS,
    PERCENTILES,
    add,
    bin_of,
    percentile_ms,
)

LATENCIES = st.lists(
    st.integers(0, 200) | st.integers(0, MAX_LATENCY_MS) | st.sampled_from(BIN_LOW_MS),
    min_size=1,
    max_size=60,
)
QUANTILES = st.sampled_from(sorted(PERCENTILES.values())) | st.fractions(0, 1, max_denominator=1000)
BIN_HIGH_MS = [*(low - 1 for low in BIN_LOW_MS[1:]), MAX_LATENCY_MS]


def histogram_of(latencies: list[int]) -> dict[int, int]:
    return dict(Counter(map(bin_of, latencies)))


def nearest_rank(latencies: list[int], quantile: Fraction) -> int:
    """Return the smallest value that at least this share of all values does not pass."""
    ordered = sorted(latencies)
    shares = [Fraction(position, len(ordered)) for position in range(1, len(ordered) + 1)]
    return ordered[bisect_left(shares, quantile)]


def test_every_bin_reports_a_value_within_one_percent_of_all_it_holds() -> None:
    for low, high, value in zip(BIN_LOW_MS, BIN_HIGH_MS, BIN_VALUE_MS, strict=True):
        assert low <= value <= high
        # The error's share is largest at the ends: (value - x) / x falls and (x - value) / x grows with x.
        assert 100 * (value - low) <= low
        assert 100 * (high - value) <= high


def test_the_bins_cover_every_latency_once_and_fit_a_smallint() -> None:
    assert BIN_LOW_MS[0] == 0
    assert all(low < following for low, following in pairwise(BIN_LOW_MS))
    for number, (low, high) in enumerate(zip(BIN_LOW_MS, BIN_HIGH_MS, strict=True)):
        assert bin_of(low) == bin_of(high) == number
    assert len(BIN_LOW_MS) < 2**15


def test_latencies_below_99_ms_are_kept_exactly() -> None:
    assert BIN_VALUE_MS[:99] == BIN_LOW_MS[:99] == list(range(99))


def test_without_events_there_is_no_percentile() -> None:
    assert percentile_ms({}, PERCENTILES["p99"]) is None


@pytest.mark.parametrize(("name", "wanted"), [("p50", 50), ("p90", 90), ("p95", 95), ("p99", 98)], ids=str)
def test_a_percentile_is_a_value_that_occurred_and_no_interpolation(name: str, wanted: int) -> None:
    latencies = [*range(1, 99), 98, 98]
    assert percentile_ms(histogram_of(latencies), PERCENTILES[name]) == wanted


@settings(max_examples=200, deadline=None)
@given(LATENCIES, QUANTILES)
def test_a_percentile_is_within_one_percent_of_the_exact_nearest_rank(
    latencies: list[int], quantile: Fraction
) -> None:
    exact = nearest_rank(latencies, quantile)
    reported = percentile_ms(histogram_of(latencies), quantile)
    assert reported is not None
    assert 100 * abs(reported - exact) <= exact


@settings(max_examples=200, deadline=None)
@given(st.lists(LATENCIES, max_size=4), QUANTILES)
def test_a_union_of_histograms_is_the_histogram_of_all_its_events(
    parts: list[list[int]], quantile: Fraction
) -> None:
    union: dict[int, int] = {}
    for part in parts:
        # As stored: parallel arrays in any order, in which a bin may stand several times.
        add(union, [bin_of(latency) for latency in part], [1] * len(part))
    everything = histogram_of([latency for part in parts for latency in part])
    assert union == everything
    assert percentile_ms(union, quantile) == percentile_ms(everything, quantile)


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        add({}, [1, 2], [1])
