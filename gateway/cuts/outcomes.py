"""Reliability of a cut: outcomes, percentiles and speed of its points in order, and of the whole window."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from gateway.cuts.histograms import BINS, Counts, add_to, percentiles_ms
from shared.cut_plan import Plan
from shared.usage_sums import Row

_CHUNK_ROWS = 500
"""Histograms merged at once: 4 MB each of latencies and of times to first token."""

_FIGURES = 6
"""invocations, error, timeout, throttled, output tokens and milliseconds of successes."""


class Outcomes(NamedTuple):
    """What reliability says of a point or of a window.

    percentiles: in the order of histograms.NAMES, None without events that told it.
    """

    invocations: int
    by_status: Sequence[int]
    success_output_tokens: int
    success_latency_ms: int
    latency_ms: Sequence[int] | None
    first_token_ms: Sequence[int] | None

    @property
    def errors(self) -> int:
        """All that did not succeed."""
        return sum(self.by_status)

    @property
    def error_rate(self) -> float | None:
        """The share of errors, None without calls."""
        return self.errors / self.invocations if self.invocations else None

    @property
    def output_tokens_per_second(self) -> float | None:
        """Output tokens by seconds of latency, of successes alone; None where there is no second."""
        if self.success_latency_ms <= 0:
            return None
        return self.success_output_tokens * 1000 / self.success_latency_ms


class OutcomesPoint(NamedTuple):
    """One group of one bucket. other: all that is not in the top."""

    bucket: int
    other: bool
    org_id: str | None
    model_id: str | None
    value: str | None
    outcomes: Outcomes


class _Part:
    """Sums of one key: figures, and histograms of latency and of time to first token side by side."""

    def __init__(self) -> None:
        self.figures = [0] * _FIGURES
        self.histograms: Counts = np.zeros((2, BINS), np.int64)

    def add(self, figures: Sequence[int], histograms: Counts, sign: int = 1) -> None:
        """Add sums, or take them away (sign -1)."""
        self.figures = [mine + sign * more for mine, more in zip(self.figures, figures, strict=True)]
        self.histograms = self.histograms + sign * histograms


class OutcomesReader:
    """Makes points of the rows of `reliability`, some hundred at a time. For one pass."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._left = _Part()
        self._scope: object = None
        self._totals = _Part()

    @property
    def totals(self) -> Outcomes:
        """What the points have said together so far."""
        return _outcomes([self._totals.figures], self._totals.histograms[None])[0]

    def points(self, rows: Iterable[Row]) -> Iterator[OutcomesPoint]:
        """Yield the points of rows that are in order."""
        rows = iter(rows)
        held: tuple[tuple[Any, ...], _Part] | None = None  # a key whose rows may not all be here
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            keys, figures, histograms = self._merged(chunk)
            if held is not None:
                if keys[0] == held[0]:
                    figures[0] = [one + more for one, more in zip(figures[0], held[1].figures, strict=True)]
                    histograms[0] += held[1].histograms
                else:
                    yield from self._made([held[0]], [held[1].figures], held[1].histograms[None])
            last = _Part()
            last.add(figures[-1], histograms[-1])
            held = keys[-1], last
            yield from self._made(keys[:-1], figures[:-1], histograms[:-1])
        if held is not None:
            yield from self._made([held[0]], [held[1].figures], held[1].histograms[None])

    def _merged(self, chunk: Sequence[Row]) -> tuple[list[tuple[Any, ...]], list[list[int]], Counts]:
        """Add up the rows of each key. Returns keys, their figures, and their histograms (keys, 2, bins)."""
        keys: list[tuple[Any, ...]] = []
        figures: list[list[int]] = []
        at, signs = [], []
        for row in chunk:
            if not keys or keys[-1] != row[:6]:
                keys.append(row[:6])
                figures.append([0] * _FIGURES)
            at.append(len(keys) - 1)
            sign = row[6]
            signs.append(sign)
            for place, number in enumerate(row[7][:_FIGURES]):
                figures[-1][place] += sign * int(number)
        histograms = np.zeros((len(keys), 2, BINS), np.int64)
        for which, column in enumerate((6, 8)):
            add_to(
                histograms.reshape(-1, BINS),
                [row[7][column] for row in chunk],
                [row[7][column + 1] for row in chunk],
                [2 * place + which for place in at],
                signs,
            )
        return keys, figures, histograms

    def _made(
        self, keys: Sequence[tuple[Any, ...]], figures: list[list[int]], histograms: Counts
    ) -> Iterator[OutcomesPoint]:
        if not keys:
            return
        if self._plan.has_rest:
            self._take_away(keys, figures, histograms)
        for row in figures:
            self._totals.figures = [mine + more for mine, more in zip(self._totals.figures, row, strict=True)]
        self._totals.histograms = self._totals.histograms + histograms.sum(axis=0)
        for key, found in zip(keys, _outcomes(figures, histograms), strict=True):
            if found.invocations:
                bucket, other, org_id, model_id, value, _rest = key
                yield OutcomesPoint(bucket, other, org_id, model_id, value, found)

    def _take_away(
        self, keys: Sequence[tuple[Any, ...]], figures: list[list[int]], histograms: Counts
    ) -> None:
        """Take from each rest, in place, the groups that stand before it."""
        for at, (bucket, _other, org_id, model_id, _value, rest) in enumerate(keys):
            scope = bucket if self._plan.cut.top is not None else (bucket, org_id, model_id)
            if scope != self._scope:
                self._scope, self._left = scope, _Part()
            if rest:
                figures[at] = [
                    mine - more for mine, more in zip(figures[at], self._left.figures, strict=True)
                ]
                histograms[at] -= self._left.histograms
            else:
                self._left.add(figures[at], histograms[at])


def _outcomes(figures: Sequence[Sequence[int]], histograms: Counts) -> list[Outcomes]:
    latency, first = (percentiles_ms(histograms[:, which]) for which in (0, 1))
    return [
        Outcomes(row[0], row[1:4], row[4], row[5], latency[at], first[at]) for at, row in enumerate(figures)
    ]
