"""Percentiles of many histograms at once.

A histogram arrives as two texts, bins and counts separated by commas, which numpy reads in a fraction of the
time that Python takes to make lists of numbers. A bin may stand there several times.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.latency_histogram import BIN_LOW_MS, BIN_VALUE_MS, PERCENTILES

BINS = len(BIN_LOW_MS)

Counts = NDArray[np.int64]
"""Events by bin, one row a histogram."""

NAMES = tuple(PERCENTILES)

_VALUE_MS = np.array(BIN_VALUE_MS)


def add_to(
    histograms: Counts,
    bins: Sequence[str | None],
    counts: Sequence[str | None],
    rows: Sequence[int],
    signs: Sequence[int],
) -> None:
    """Add texts to rows of histograms (rows, BINS) in place, each to its row with its sign."""
    lengths = np.fromiter((text.count(",") + 1 if text else 0 for text in bins), np.int64, len(bins))
    at = _numbers(bins) + np.repeat(np.asarray(rows, np.int64) * BINS, lengths)
    events = _numbers(counts)
    if min(signs, default=1) < 0:
        events *= np.repeat(np.asarray(signs, np.int64), lengths)
    np.add.at(histograms.reshape(-1), at, events)


def _numbers(texts: Sequence[str | None]) -> Counts:
    joined = ",".join([text for text in texts if text])
    return np.fromstring(joined, np.int64, sep=",") if joined else np.zeros(0, np.int64)


def percentiles_ms(histograms: Counts) -> list[list[int] | None]:
    """Return the nearest-rank percentiles of each histogram in the order of NAMES, None for an empty one.

    The rule is that of shared.latency_histogram.percentiles_ms, for many histograms in one pass.
    """
    running = np.cumsum(histograms.reshape(-1))
    ends = running[BINS - 1 :: BINS]
    begins = np.concatenate(([0], ends[:-1]))
    totals = ends - begins
    columns = []
    for quantile in PERCENTILES.values():
        ranks = -(-quantile.numerator * totals // quantile.denominator)
        at = np.searchsorted(running, begins + ranks) - np.arange(len(totals)) * BINS
        columns.append(_VALUE_MS[np.clip(at, 0, BINS - 1)].tolist())
    return [list(values) if total else None for total, *values in zip(totals.tolist(), *columns, strict=True)]
