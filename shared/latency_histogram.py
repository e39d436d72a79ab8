"""Latency histograms: sparse counts over fixed bins that can be added and never averaged.

The bins are integers chosen so that any value differs from the one it is reported as by at most 1%
(after DDSketch, Masson et al., VLDB 2019, with integer bounds in place of logarithms, so that no
rounding decides a bin). The same rule builds analytics.latency_bins in sql/migrations.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

MAX_LATENCY_MS = 2_147_483_647

PERCENTILES = {
    "p50": Fraction(50, 100),
    "p90": Fraction(90, 100),
    "p95": Fraction(95, 100),
    "p99": Fraction(99, 100),
}


def _bins() -> tuple[list[int], list[int]]:
    """Return the lowest millisecond of each bin and the value each is reported as.

    A bin that starts at low is reported as r = low + low//100 and ends at 100 r // 99, so that
    r - low <= low/100 and high - r <= high/100.
    """
    lows, values = [0], [0]
    high = 0
    while high < MAX_LATENCY_MS:
        low = high + 1
        value = low + low // 100
        high = 100 * value // 99
        lows.append(low)
        values.append(min(value, MAX_LATENCY_MS))
    return lows, values


BIN_LOW_MS, BIN_VALUE_MS = _bins()


def bin_of(latency_ms: int) -> int:
    """Return the bin that holds a latency of 0 to MAX_LATENCY_MS milliseconds."""
    return bisect_right(BIN_LOW_MS, latency_ms) - 1


def add(histogram: dict[int, int], bins: Iterable[int], counts: Iterable[int]) -> None:
    """Add parallel arrays of bins and counts, as the rollups store them, to a histogram in place."""
    for number, count in zip(bins, counts, strict=True):
        histogram[number] = histogram.get(number, 0) + count


def percentiles_ms(histogram: Mapping[int, int], quantiles: Sequence[Fraction]) -> list[int] | None:
    """Return nearest-rank percentiles in milliseconds, each within 1% of the exact one.

    Nearest rank: the value at position ceil(quantile * n) of the n sorted values. quantiles: ascending,
    above 0 and at most 1. None without events.
    """
    total = sum(histogram.values())
    if total == 0:
        return None
    ranks = [-(-quantile.numerator * total // quantile.denominator) for quantile in quantiles]
    found: list[int] = []
    seen = 0
    for number, count in sorted(histogram.items()):
        seen += count
        while len(found) < len(ranks) and seen >= ranks[len(found)]:
            found.append(BIN_VALUE_MS[number])
    return found


def percentile_ms(histogram: Mapping[int, int], quantile: Fraction) -> int | None:
    """Return one nearest-rank percentile; see percentiles_ms."""
    found = percentiles_ms(histogram, [quantile])
    return found[0] if found else None
