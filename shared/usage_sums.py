"""Usage of a cut: its rows, its points in order, exactly, and their totals."""

import operator
from collections.abc import Iterable, Iterator, Sequence
from decimal import Context, Decimal
from functools import reduce
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from shared.cut import Cut
from shared.cut_plan import Plan, Read

Row = tuple[int, bool, str | None, str | None, str | None, bool, int, list[Any]]
"""Bucket, whether it is all that is not in the top, organisation, model, value, whether groups are to be
taken from it, sign, and figures.
"""

SUMS = (
    "invocations",
    "errors",
    "inputTokens",
    "outputTokens",
    "costEstimateCents",
    "cachedInputTokens",
    "cacheWriteInputTokens",
    "reasoningTokens",
)
"""What usage adds up, by the names of answers."""

COST = SUMS.index("costEstimateCents")

EXACT = Context(prec=1000)
"""Costs are added without a rounding, however many there are."""

Sums = list[Any]
"""Numbers in the order of SUMS: integers, and the cost as a Decimal."""


class UsagePoint(NamedTuple):
    """One group of one bucket. other: all that is not in the top."""

    bucket: int
    other: bool
    org_id: str | None
    model_id: str | None
    value: str | None
    sums: Sums


def nothing() -> Sums:
    """Return sums of no events."""
    return [Decimal(0) if at == COST else 0 for at in range(len(SUMS))]


def numbers(texts: Sequence[str]) -> Sums:
    """Return sums that PostgreSQL wrote."""
    calls, errors, tokens_in, tokens_out, cost, *parts = texts
    return [int(calls), int(errors), int(tokens_in), int(tokens_out), Decimal(cost), *map(int, parts)]


def add(sums: Sums, more: Sums, sign: int = 1) -> None:
    """Add sums to others in place, or take them away (sign -1)."""
    if sign > 0:
        cost = EXACT.add(sums[COST], more[COST])
        sums[:] = map(operator.add, sums, more)
    else:
        cost = EXACT.subtract(sums[COST], more[COST])
        sums[:] = map(operator.sub, sums, more)
    sums[COST] = cost  # the operators round it


def total(rows: Sequence[Sequence[Any]]) -> Sums:
    """Add up sums: integers in any form, also as text, and costs as Decimals."""
    if not rows:
        return nothing()
    return [
        reduce(EXACT.add, column) if at == COST else sum(map(int, column))
        for at, column in enumerate(zip(*rows, strict=True))
    ]


def cents(cost: Decimal) -> str:
    """Write a cost without an exponent and without zeros at its end."""
    text = f"{cost:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def texts(sums: Sums) -> list[str]:
    """Write sums as they stand in answers."""
    return [cents(number) if at == COST else str(number) for at, number in enumerate(sums)]


def usage_rows(read: Read, rows: Iterable[tuple[Any, ...]], cut: Cut) -> Iterator[Row]:
    """Yield what a read's statement `usage` gives as rows."""
    other = read.rest and cut.top is not None
    for _size, bucket, _other, org_id, model_id, value, *sums in rows:
        yield (bucket, other, org_id, model_id, value, read.rest, read.sign, sums)


def merged(parts: list[Iterator[Row]]) -> Iterator[Row]:
    """Yield the rows of parts that are in order, in order: a rest after what is to be taken from it."""
    return parts[0] if len(parts) == 1 else merge(*parts, key=_place)


def _place(row: Row) -> tuple[Any, ...]:
    bucket, other, org_id, model_id, value, rest, _, _ = row
    return (bucket, other, org_id or "", model_id or "", value is None, value or "", rest)


def usage_points(rows: Iterable[Row], plan: Plan) -> Iterator[UsagePoint]:
    """Make points of the rows of `usage`: groups as they are, and of rests what the groups leave."""
    if not plan.has_rest:  # then each row is a point
        for bucket, other, org_id, model_id, value, _, _, written in rows:
            yield UsagePoint(bucket, other, org_id, model_id, value, numbers(written))
        return
    scope: object = None
    left: Sums = []
    for (bucket, other, org_id, model_id, value, rest), same in groupby(rows, key=itemgetter(slice(6))):
        sums: Sums = []
        for row in same:
            more = numbers(row[7])
            if not sums and row[6] > 0:  # most groups have one row
                sums = more
            else:
                sums = sums or nothing()
                add(sums, more, row[6])
        key = bucket if plan.cut.top is not None else (bucket, org_id, model_id)
        if key != scope:
            scope, left = key, nothing()
        if rest:
            add(sums, left, -1)
        else:
            add(left, sums)
        if sums[0]:
            yield UsagePoint(bucket, other, org_id, model_id, value, sums)
