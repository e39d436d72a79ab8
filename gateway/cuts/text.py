"""Points as text, one after another: JSON members, or lines of CSV with columns in snake case.

Numbers are the same digits in both.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from gateway.cuts.histograms import NAMES
from gateway.cuts.outcomes import Outcomes, OutcomesPoint
from gateway.http.answers import encode
from shared.csv_text import CsvLines, spreadsheet_text
from shared.cut import column, member
from shared.cut_plan import Plan
from shared.usage_sums import SUMS, UsagePoint, texts

Codes = list[dict[str, object]]

_LINES_AT_ONCE = 500
_ALWAYS = ("p50", "p95", "p99")
_ALWAYS_AT = tuple(NAMES.index(name) for name in _ALWAYS)
_STATUSES = ("error", "timeout", "throttled")

USAGE_COLUMNS = (
    "invocations",
    "errors",
    "input_tokens",
    "output_tokens",
    "cost_estimate_cents",
    "cached_input_tokens",
    "cache_write_input_tokens",
    "reasoning_tokens",
)
_SUMS = ",".join(f'"{name}":%s' for name in SUMS) + "}"


def json_text(value: object) -> str:
    """Write a value as JSON."""
    return encode(value).decode()


class Keys:
    """Writes what stands before the figures of a point: its bucket and its group."""

    def __init__(self, plan: Plan) -> None:
        cut = plan.cut
        self._fold = cut.top is not None
        self._plan = plan
        names = [(0, "orgId", "org_id")] if cut.by_org else []
        names += [(1, "modelId", "model_id")] if cut.by_model else []
        names += [(2, member(cut.dimension), column(cut.dimension))] if cut.by_value else []
        self._members = [(at, f"{json_text(name)}:") for at, name, _ in names]
        self._at = [at for at, _, _ in names]
        self._texts: dict[str | None, str] = {None: "null"}
        self.columns = ["bucket_start", *(name for _, _, name in names), *(["other"] if self._fold else [])]

    @cached_property
    def _buckets(self) -> list[str]:
        return self._plan.buckets

    @cached_property
    def _json_buckets(self) -> list[str]:
        return [f'{{"bucketStart":"{text}",' for text in self._buckets]

    def json(self, point: UsagePoint | OutcomesPoint) -> str:
        """Return the point's JSON up to its figures."""
        parts = [self._json_buckets[point.bucket]]
        group = point[2:5]
        for at, name in self._members:
            parts.append(f"{name}{self._text(group[at])},")
        if point.other:
            parts.append('"other":true,')
        return "".join(parts)

    def cells(self, point: UsagePoint | OutcomesPoint) -> list[str]:
        """Return the point's cells before its figures; what has no value is an empty one."""
        group = point[2:5]
        cells = [self._buckets[point.bucket], *(spreadsheet_text(group[at] or "") for at in self._at)]
        return [*cells, "true" if point.other else "false"] if self._fold else cells

    def _text(self, value: str | None) -> str:
        found = self._texts.get(value)
        if found is None:
            found = json_text(value)
            if len(self._texts) < 1000:  # models come again with every bucket
                self._texts[value] = found
        return found


def usage_json(keys: Keys, point: UsagePoint) -> bytes:
    """Return a point of usage."""
    return (keys.json(point) + _SUMS % tuple(texts(point.sums))).encode()


def figures(outcomes: Outcomes, codes: Codes | None, percentile: str | None) -> dict[str, Any]:
    """Return what reliability says of a point or a window, by the names of answers."""
    found = {
        "invocations": outcomes.invocations,
        "errors": outcomes.errors,
        "errorRate": outcomes.error_rate,
        "latencyMs": _percentiles(outcomes.latency_ms),
        "errorsByStatus": dict(zip(_STATUSES, outcomes.by_status, strict=True)),
        "errorCodes": codes,
        "timeToFirstTokenMs": _percentiles(outcomes.first_token_ms),
        "outputTokensPerSecond": outcomes.output_tokens_per_second,
    }
    return found | ({"latencyPercentileMs": _one(outcomes, percentile)} if percentile else {})


def _percentiles(values: Sequence[int] | None) -> dict[str, int | None]:
    if values is None:
        return dict.fromkeys(_ALWAYS)
    return {name: values[at] for name, at in zip(_ALWAYS, _ALWAYS_AT, strict=True)}


def _one(outcomes: Outcomes, percentile: str) -> int | None:
    return None if outcomes.latency_ms is None else outcomes.latency_ms[NAMES.index(percentile)]


def outcomes_json(keys: Keys, point: OutcomesPoint, codes: Codes | None, percentile: str | None) -> bytes:
    """Return a point of reliability."""
    return keys.json(point).encode() + encode(figures(point.outcomes, codes, percentile))[1:]


def outcomes_columns(percentile: str | None) -> list[str]:
    """Return the columns of a point of reliability after its key."""
    columns = ["invocations", "errors", "error_rate"]
    columns += [f"latency_{name}_ms" for name in _ALWAYS]
    columns += [f"status_{name}" for name in _STATUSES]
    columns += ["error_codes"]
    columns += [f"time_to_first_token_{name}_ms" for name in _ALWAYS]
    columns += ["output_tokens_per_second"]
    return [*columns, *(["latency_percentile_ms"] if percentile else [])]


def outcomes_cells(outcomes: Outcomes, codes: Codes | None, percentile: str | None) -> list[str]:
    """Return the cells of a point of reliability after its key. Codes are one cell: `CODE:3 OTHER:1`."""
    latency, first = _percentiles(outcomes.latency_ms), _percentiles(outcomes.first_token_ms)
    values = [outcomes.invocations, outcomes.errors, outcomes.error_rate, *latency.values()]
    values += outcomes.by_status
    cells = ["" if value is None else json_text(value) for value in values]
    cells.append(spreadsheet_text(" ".join(f"{code['errorCode']}:{code['count']}" for code in codes or ())))
    rest: list[Any] = [*first.values(), outcomes.output_tokens_per_second]
    rest += [_one(outcomes, percentile)] if percentile else []
    return [*cells, *("" if value is None else json_text(value) for value in rest)]


def json_answer(
    head: dict[str, Any], points: Iterable[bytes], tail: Iterator[dict[str, Any]]
) -> Iterator[bytes]:
    """Yield an answer: its head, the series, and the tail, which is asked for when the series has ended.

    Points are yielded as they come: to put them together is for the sender, which does it once.
    """
    yield encode(head)[:-1] + b',"series":['
    comma = b""
    for point in points:
        yield comma
        yield point
        comma = b","
    yield b"]," + encode(next(tail))[1:]


def csv_answer(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[bytes]:
    """Yield CSV with a header line."""
    csv = CsvLines()
    csv.add(columns)
    for number, cells in enumerate(lines, 1):
        csv.add(cells)
        if number % _LINES_AT_ONCE == 0:
            yield csv.take()
    yield csv.take()
