"""Makes rollups again from raw events while the fleet runs: `rebuild` and `backfill`.

A step is a UTC day of some organisations, chosen so that it has few events, in one transaction that keeps
the rollups of new batches out; then those go on for as long as the step took. Days are taken from the newest
to the oldest, and a dimension is complete since the last day that is done: to go on after a kill is to begin
again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from rollup_worker.dimensions import Dimension, list_dimensions
from rollup_worker.parts import make_day_again
from rollup_worker.spread import keep_rollups_out
from shared.buckets import bucket_start
from shared.errors import AnalyticsError
from shared.postgres import Cursor, Database
from shared.statements import load_statements

MAX_EVENTS = 20_000
"""Most events of a step, unless one organisation has more in a day."""

_LIMIT_SECONDS = 3600
_DAY = timedelta(days=1)
_SQL = load_statements("dimensions.sql")
_VERIFY = load_statements("verify.sql")

WriteLine = Callable[[str], None]


class DaysGone(AnalyticsError):
    """Raw events of the day were dropped, so its rollups cannot be made again."""


def make_day(
    database: Database, day: datetime, *, names: Sequence[str] | None = None, org_id: str | None = None
) -> int:
    """Make a UTC day again in the named dimensions (None: in all), of one organisation or of all (None).

    Returns how many rows of days were made. Raises DaysGone, with nothing changed in this step, and
    DatabaseUnavailable.
    """
    made = 0
    with database.query() as cur:
        before = _chosen(cur, names)
        cur.execute(_SQL["orgs_of_day"], {"day": day, "next_day": day + _DAY, "org_id": org_id})
        orgs = cur.fetchall()
    for org_ids in _steps(orgs):
        began = time.monotonic()
        with database.transaction(time_limit_seconds=_LIMIT_SECONDS) as cur:
            cur.execute(_VERIFY["hold_days"])
            keep_rollups_out(cur)
            _refuse_dropped(cur, day)
            dimensions = _chosen(cur, names)
            made += make_day_again(cur, dimensions, day, org_ids)
        time.sleep(min(1.0, time.monotonic() - began))  # rollups waited as long
    if org_id is None:
        with database.transaction() as cur:
            for dimension in before:
                parameters = {"name": dimension.name, "day": day, "next_day": day + _DAY}
                holes = {"holes": dimension.holes}
                cur.execute(_SQL["lower_complete_since"], parameters | holes)
                cur.execute(_SQL["lower_halves_since"], parameters | holes)
                cur.execute(_SQL["lower_kept_since"], parameters)
    return made


def backfill(database: Database, name: str, first: datetime | None, write_line: WriteLine) -> None:
    """Fill a dimension from raw events, down to a UTC day (None: the oldest that has rollups and raw events).

    Raises AnalyticsError when the dimension is not kept, and DatabaseUnavailable; then what was said to be
    done is done.
    """
    while True:
        with database.query() as cur:
            kept = {each.name: each for each in list_dimensions(cur) if each.groupable}
            cur.execute(_SQL["oldest_day"])
            [(oldest,)] = cur.fetchall()
        if name not in kept:
            raise AnalyticsError(f"{name} is not kept; kept are {', '.join(kept) or 'none'}")
        since = kept[name].complete_since
        if since is None:
            write_line(f"{name} is complete")
            return
        at = f"{since.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
        day = bucket_start(since - timedelta(microseconds=1), "day")
        if first is not None and day < first:
            write_line(f"{name} is complete since {at}")
            return
        try:
            rows = make_day(database, day, names=[name])
        except DaysGone:
            write_line(f"{name} is complete since {at}: older raw events were dropped")
            return
        left = max(0, (day - max(first or oldest or day, oldest or day)).days)
        write_line(f"{day:%Y-%m-%d}  {name}: {rows:,} rows of the day made, {left:,} days left")


def _chosen(cur: Cursor, names: Sequence[str] | None) -> list[Dimension]:
    return [each for each in list_dimensions(cur) if names is None or each.name in names]


def _steps(orgs: Sequence[tuple[str, int]]) -> Iterator[list[str]]:
    """Yield the organisations in groups that have at most MAX_EVENTS together, or one organisation."""
    group: list[str] = []
    events = 0
    for org_id, count in orgs:
        if group and events + count > MAX_EVENTS:
            yield group
            group, events = [], 0
        group.append(org_id)
        events += count
    if group:
        yield group


def _refuse_dropped(cur: Cursor, day: datetime) -> None:
    cur.execute(_VERIFY["dropped_days"], {"first_day": day.date(), "end_day": day.date() + _DAY})
    if any(what == "events" for _, what in cur.fetchall()):
        raise DaysGone(f"raw events of {day:%Y-%m-%d} were dropped")
