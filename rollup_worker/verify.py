"""Proof and repair: compare rollups with raw events, and make them again from those.

Both are safe while the fleet runs. A comparison reads one snapshot, in which a batch's rows, its mark
and its share of the rollups agree by construction. A rebuild keeps rollups of new batches out for the
time one day takes, then lets them go on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared.buckets import rfc3339
from shared.db import Database
from shared.errors import AnalyticsError
from shared.statements import load_statements

_ROLLUPS = load_statements("rollups.sql")
_VERIFY = load_statements("verify.sql")

_MOST_ROWS = 1000
_DAY = timedelta(days=1)
_LIMIT_SECONDS = 3600

Say = Callable[[str], None]


@dataclass(frozen=True)
class Window:
    """Whole UTC days [start, end), of one organisation (a UUID) or of all (None)."""

    start: datetime
    end: datetime
    org_id: str | None = None

    def days(self) -> Iterator[dict[str, object]]:
        """Yield each day's statement parameters."""
        day = self.start
        while day < self.end:
            yield {"day": day, "next_day": day + _DAY, "org_id": self.org_id, "most_rows": _MOST_ROWS}
            day += _DAY


def verify(database: Database, window: Window, say: Say) -> int:
    """Compare day by day, saying each difference; return how many there are (at most 1,000 a kind and day).

    Raises DatabaseUnavailable.
    """
    differences = events = rollups = 0
    for day in window.days():
        with database.transaction(
            repeatable_read=True, read_only=True, time_limit_seconds=_LIMIT_SECONDS
        ) as cur:
            found = []
            for name, what in (("compare_hours", "hour"), ("compare_days", "day")):
                cur.execute(_VERIFY[name], day)
                found += [_describe(what, row) for row in cur.fetchall()]
            cur.execute(_VERIFY["compare_error_codes"], day)
            found += [
                f"{what} {rfc3339(start)}  {org}  {model}  error code {code}: raw {raw}, rolled up {rolled}"
                for org, model, start, what, code, raw, rolled in cur.fetchall()
            ]
            cur.execute(_VERIFY["count_compared"], day)
            counts = cur.fetchone() or (0, 0, 0)
        for line in found:
            say(f"DIFFERS  {line}")
        day_rollups, day_events = counts[0] + counts[1], counts[2]
        say(
            f"{day['day']:%Y-%m-%d}  {day_rollups:,} rollups, {day_events:,} events, {len(found)} differences"
        )
        differences, events, rollups = differences + len(found), events + day_events, rollups + day_rollups
    if differences:
        say(f"{differences} differences; `rebuild` makes the rollups of a window again from raw events")
    else:
        say(f"no difference: {rollups:,} rollups agree with the raw events, {events:,} in all")
    return differences


def _describe(what: str, row: tuple[Any, ...]) -> str:
    org_id, model_id, start = row[:3]
    names = ("invocations", "input tokens", "output tokens", "cost in cents")
    pairs = zip(names, row[3:11:2], row[4:11:2], strict=True)
    parts = [f"{name}: expected {raw}, rolled up {rolled}" for name, raw, rolled in pairs if raw != rolled]
    parts += ["counts by status"] if row[11] else []
    parts += ["latency histogram"] if row[12] else []
    return f"{what} {start:%Y-%m-%dT%H:%MZ}  {org_id}  {model_id}  {'; '.join(parts)}"


def rebuild(database: Database, window: Window, *, raw_since: datetime, say: Say) -> None:
    """Make a window's rollups again from raw events, one short transaction a day.

    raw_since: the oldest instant of which all raw events are still kept. Raises AnalyticsError when the
    window begins before it, since rollups without raw events could only be erased; and
    DatabaseUnavailable, after which the days said to be done are done.
    """
    if window.start < raw_since:
        raise AnalyticsError(
            f"raw events are kept since {rfc3339(raw_since)} only; rebuilding from {rfc3339(window.start)} "
            "would erase rollups that nothing can make again. Begin on the first whole day after that."
        )
    for day in window.days():
        with database.transaction(time_limit_seconds=_LIMIT_SECONDS) as cur:
            cur.execute(_ROLLUPS["lock_rollups"])
            cur.execute(_ROLLUPS["clear_day"], day)
            cur.execute(_ROLLUPS["create_contributions"])
            cur.execute(_ROLLUPS["contributions_of_day"], day)
            cur.execute(_ROLLUPS["add_hourly"])
            cur.execute(_ROLLUPS["add_daily"])
            made = cur.rowcount
            cur.execute(_ROLLUPS["remake_error_codes_of_day"], day)
        say(f"{day['day']:%Y-%m-%d}  rebuilt, {made:,} daily rollups")
