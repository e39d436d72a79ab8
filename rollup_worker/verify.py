"""Proof and repair: compare rollups with raw events, and make them again from those.

Both are safe while the fleet runs. A comparison reads one snapshot, in which a batch's rows, its mark
and its share of the rollups agree by construction. A rebuild keeps rollups of new batches out for the
time one day takes, then lets them go on. Days of which raw events were dropped can neither be proven nor
made again: the record of what was dropped decides that, and the data itself, never a setting.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from rollup_worker.dimensions import ERROR_CODE, Dimension, Part, list_dimensions
from rollup_worker.remake import WriteLine, make_day
from rollup_worker.spread import is_spread, keep_rollups_out, shown
from shared.buckets import rfc3339
from shared.clock import utc_now
from shared.errors import AnalyticsError
from shared.pieces import DAY_MINUTES, HALF_HOURS, HALF_MINUTES, HOUR_MINUTES
from shared.postgres import Cursor, Database, Row, fetch_rows
from shared.statements import load_statements, with_tables

_VERIFY = load_statements("verify.sql")

_SUMS = {
    "invocations": "invocations",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "cost_estimate_cents": "cost in cents",
}
_OTHERS = {
    "status_differs": "counts by status",
    "latency_differs": "latency histogram",
    "parts_differ": "parts of tokens or speed",
    "first_token_differs": "first tokens' histogram",
}
_GRAINS = {HALF_MINUTES: "first half of hour", HOUR_MINUTES: "hour", DAY_MINUTES: "day"}
_MAX_ROWS = 1000
_DAY = timedelta(days=1)
_LIMIT_SECONDS = 3600


@dataclass(frozen=True)
class Window:
    """Whole UTC days [start, end), of one organisation (a UUID) or of all (None)."""

    start: datetime
    end: datetime
    org_id: str | None = None

    def days(self) -> Iterator["_Day"]:
        """Yield each day."""
        start = self.start
        while start < self.end:
            yield _Day(start, self.org_id)
            start += _DAY


@dataclass(frozen=True)
class _Day:
    start: datetime
    org_id: str | None

    @property
    def parameters(self) -> dict[str, object]:
        """What the statements about a day take."""
        return {
            "day": self.start,
            "next_day": self.start + _DAY,
            "first_day": self.start.date(),
            "end_day": self.start.date() + _DAY,
            "org_id": self.org_id,
            "max_rows": _MAX_ROWS,
        }


@dataclass(frozen=True)
class _Compared:
    """What a day's comparison found."""

    dropped: str | None
    differences: list[str]
    rollups: int
    events: int


def verify(database: Database, window: Window, write_line: WriteLine) -> int:
    """Compare day by day, writing each difference; return how many there are (at most 1,000 a kind and day).

    A day of which raw events or rollups were dropped is said to be not verifiable; of its rollups only the
    days are compared with the hours. Raises DatabaseUnavailable.
    """
    differences = events = rollups = 0
    not_verifiable: list[date] = []
    for day in window.days():
        found = _compare(database, day)
        for line in found.differences:
            write_line(f"DIFFERS  {line}")
        at = f"{day.start:%Y-%m-%d}"
        if found.dropped:
            not_verifiable.append(day.start.date())
            write_line(
                f"{at}  not verifiable: {found.dropped} of this day were dropped ({found.rollups:,} rollups)"
            )
        else:
            counts = f"{found.rollups:,} rollups, {found.events:,} events"
            write_line(f"{at}  {counts}, {len(found.differences)} differences")
            events, rollups = events + found.events, rollups + found.rollups
        differences += len(found.differences)
    if not_verifiable:
        write_line(f"not verifiable, since raw events or rollups were dropped: {_listed(not_verifiable)}")
    if differences:
        write_line(
            f"{differences} differences; `rebuild` makes the rollups of a window again from raw events"
        )
    else:
        write_line(f"no difference: {rollups:,} rollups agree with the raw events, {events:,} in all")
    return differences


def _compare(database: Database, day: _Day, *, alone: bool = False) -> _Compared:
    """Compare a day.

    alone: keep rollups out meanwhile, in place of one snapshot, which the nodes of a Citus cluster have not.
    """
    with database.transaction(
        repeatable_read=not alone, read_only=True, time_limit_seconds=_LIMIT_SECONDS
    ) as cur:
        cur.execute(_VERIFY["hold_days"])
        if alone:
            keep_rollups_out(cur)
        again = not alone and is_spread(cur)
        dropped = {row["what"] for row in fetch_rows(cur, _VERIFY["dropped_days"], day.parameters)}
        found: list[str] = []
        if not dropped:
            cur.execute(_VERIFY["sort_groups"])
            batches = shown(cur)
            for dimension in list_dimensions(cur):
                found += _differences(cur, dimension, day.parameters | batches)
        elif "rollups" not in dropped:
            found += [_describe_day(row) for row in fetch_rows(cur, _VERIFY["compare_days"], day.parameters)]
        [counts] = fetch_rows(cur, _VERIFY["count_compared"], day.parameters)
    if found and again:
        return _compare(database, day, alone=True)
    what = "raw events" if "events" in dropped else "rollups" if dropped else None
    return _Compared(what, found, counts["hours"] + counts["days"], counts["events"])


def _differences(cur: Cursor, dimension: Dimension, of_day: dict[str, Any]) -> list[str]:
    """Compare a dimension's halves of hours, hours and days with the raw events.

    of_day: the parameters of the statements about the day.
    """
    halves = {"half_hours": list(HALF_HOURS), "halves_since": dimension.halves_since}
    if dimension.name == ERROR_CODE:
        rows = fetch_rows(cur, _VERIFY["compare_error_codes"], of_day | halves)
        return [_describe_error_code(row) for row in rows]
    found = []
    complete_since = dimension.complete_since if dimension.name else None
    parts = dimension.parts
    if dimension.keeps_halves:
        parts.append(Part(dimension.hours_table, HALF_MINUTES))
    for table, grain, part_since, until in parts:
        if grain < DAY_MINUTES and dimension.hours_kept and of_day["day"] < utc_now() - dimension.hours_kept:
            continue  # some of its hours may be gone
        parameters = {
            "dimension": dimension.name,
            "grain": grain,
            "until": until,
            "since": _latest(
                part_since, complete_since, dimension.halves_since if grain == HALF_MINUTES else None
            ),
            "all_since": dimension.complete_since,
            **halves,
        }
        rows = fetch_rows(cur, with_tables(_VERIFY["compare"], table=table), of_day | parameters)
        found += [_describe(dimension.name, grain, row) for row in rows]
    return found


def _latest(*instants: datetime | None) -> datetime | None:
    return max(filter(None, instants), default=None)


def _describe(dimension: str, grain: int, row: Row) -> str:
    expected, shown = row["raw_sums"] or [None] * 4, row["rolled_sums"] or [None] * 4
    pairs = zip(_SUMS.values(), expected, shown, strict=True)
    faults = [f"{name}: expected {want}, rolled up {got}" for name, want, got in pairs if want != got]
    faults += [name for column, name in _OTHERS.items() if row[column]]
    of = f"  {dimension} {row['value']}" if dimension else ""
    bucket = f"{_GRAINS[grain]} {row['bucket_start']:%Y-%m-%dT%H:%MZ}"
    return f"{bucket}  {row['org_id']}  {row['model_id']}{of}  {'; '.join(faults)}"


def _describe_day(row: Row) -> str:
    faults = [
        f"{name}: its hours have {row[f'expected_{column}']}, the day {row[f'shown_{column}']}"
        for column, name in _SUMS.items()
        if row[f"expected_{column}"] != row[f"shown_{column}"]
    ]
    faults += ["counts by status"] if row["statuses_differ"] else []
    faults += ["latency histogram"] if row["latencies_differ"] else []
    bucket = f"{row['bucket_start']:%Y-%m-%dT%H:%MZ}"
    return f"day {bucket}  {row['org_id']}  {row['model_id']}  {'; '.join(faults)}"


def _describe_error_code(row: Row) -> str:
    bucket = f"{row['grain']} {rfc3339(row['bucket_start'])}  {row['org_id']}  {row['model_id']}"
    return f"{bucket}  error code {row['error_code']}: raw {row['expected']}, rolled up {row['shown']}"


def rebuild(database: Database, window: Window, write_line: WriteLine) -> None:
    """Make a window's rollups again from raw events, in every dimension, from its newest day to its oldest.

    Raises AnalyticsError that names the days when raw events of some were dropped: their rollups could only
    be erased, so nothing is changed. Raises DatabaseUnavailable, after which the days said to be done are.
    """
    with database.transaction(read_only=True, time_limit_seconds=_LIMIT_SECONDS) as cur:
        _refuse_dropped(cur, window.days())
    for day in reversed(list(window.days())):
        made = make_day(database, day.start, org_id=window.org_id)
        write_line(f"{day.start:%Y-%m-%d}  rebuilt, {made:,} rows of days")


def _refuse_dropped(cur: Cursor, days: Iterable[_Day]) -> None:
    """Raise AnalyticsError if raw events of any of the days are gone: by the record, or by the data."""
    gone = []
    for day in days:
        dropped = fetch_rows(cur, _VERIFY["dropped_days"], day.parameters)
        if any(row["what"] == "events" for row in dropped):
            gone.append(day.start.date())
            continue
        cur.execute(_VERIFY["has_lost_events"], day.parameters)
        if cur.fetchone() == (True,):
            gone.append(day.start.date())
    if gone:
        raise AnalyticsError(
            f"raw events of these days are gone: {_listed(gone)}. Rebuilding them would erase numbers that "
            "nothing can make again, so nothing was rebuilt. Leave these days out."
        )


def _listed(days: list[date]) -> str:
    """Write ascending days, a run of them as its first and last."""
    runs: list[list[date]] = []
    for day in days:
        if runs and day - runs[-1][-1] == _DAY:
            runs[-1] = [runs[-1][0], day]
        else:
            runs.append([day])
    return ", ".join(" to ".join(day.isoformat() for day in run) for run in runs)
