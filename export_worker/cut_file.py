"""The file of a job by dimension or in a time zone: a cut, read as usage reads it, as lines of CSV.

Rows arrive some hundred at a time and leave as lines at once, so that memory does not follow their number.
"""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from export_worker.jobs import Job
from shared.csv_text import CsvLines, spreadsheet_text
from shared.cut import column
from shared.cut_plan import RAW, Plan
from shared.errors import AnalyticsError, DatabaseBusy
from shared.export_job import export_cut
from shared.kept import KEPT, fetch_moved
from shared.pieces import HOUR_MINUTES, NotKept, Piece
from shared.postgres import Cursor, Database, Sink
from shared.statements import in_type, load_statements
from shared.usage_sums import Row, cents, merged, usage_points, usage_rows
from shared.zones import zone

_ROWS_AT_ONCE = 2_000
_FIGURES = ("invocations", "errors", "input_tokens", "output_tokens", "cost_estimate_cents")

_CUTS = in_type(load_statements("cuts.sql"), "numeric")
_SQL = load_statements("export_csv.sql")


class NotExportable(AnalyticsError):
    """What the job asks for is not kept any more. The message is a sentence for the user."""


def write_cut(
    job: Job, database: Database, cur: Cursor, sink: Sink, *, as_of: datetime, time_limit_seconds: float
) -> tuple[int, datetime | None]:
    """Write a job's file within a snapshot; return its number of rows, and since when it is complete.

    as_of: the snapshot's time. Raises NotExportable, and psycopg2's errors, which transaction() translates.
    """
    deadline = time.monotonic() + time_limit_seconds

    def left() -> float:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise DatabaseBusy(f"the file was not whole after {time_limit_seconds:.0f} s")
        return seconds

    cur.execute(_SQL["wait_for_the_upload"])
    plan = _plan(job, cur, as_of)
    streams = []
    for read in plan.reads(None):
        stored = _stored(read.parameters)
        rows = database.stream(
            _CUTS["usage"] if stored is None else _SQL["stored"],
            stored or read.parameters,
            rows_at_once=_ROWS_AT_ONCE,
            time_limit_seconds=left,
            pause_seconds=left,
        )
        streams.append(usage_rows(read, rows, plan.cut))
    return _write_lines(job, plan, merged(streams), sink), plan.complete_since()


def _stored(read: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the parameters of `stored` for a read of `usage`, None where rows must be summed.

    They need not be where every bucket is one hour or day of UTC and each row a group: such are the largest
    files, and they come in half the time.
    """
    pieces: list[Piece] = read["pieces"]
    grains = {piece.grain for piece in pieces}
    if not read["by_model"] or read["by_value"] != bool(read["dimension"]) or len(grains) != 1:
        return None
    grain, begin, _, first, _ = pieces[0]
    if grain == RAW or first is None or (read["dimension"] and grain == HOUR_MINUTES):
        return None  # an hour of a dimension may have several rows for a group
    step = timedelta(minutes=grain)
    begins = [begin + at * step for at in range(len(pieces))]
    if pieces != [Piece(grain, at, at + step, first + number, None) for number, at in enumerate(begins)]:
        return None
    return {
        "org_id": read["org_ids"][0],
        "dimension": read["dimension"],
        "by_value": read["by_value"],
        "grain": grain,
        "first": first,
        "start": begin,
        "end": pieces[-1].high,
        "model_ids": read["model_ids"],
    }


def _plan(job: Job, cur: Cursor, as_of: datetime) -> Plan:
    """Return how the job's cut is read. It was asked for when all of it was kept, perhaps a while ago."""
    cut = export_cut(
        job.org_id,
        job.granularity,
        group_by=job.group_by,
        tz=zone(job.time_zone),
        start=job.window_start,
        end=job.window_end,
        models=job.models,
    )
    try:
        cur.execute(KEPT)
        plan = Plan(cut, fetch_moved(cur, cut), as_of)
    except NotKept as error:
        raise NotExportable(f"What the export asks for is not kept any more: {error}.") from error
    if plan.oldest_event is not None:
        cur.execute(_CUTS["events_kept_since"])
        [(kept_since,)] = cur.fetchall()
        reason = plan.lacks_events(kept_since)
        if reason is not None:
            raise NotExportable(f"The export {reason}.")
        cur.execute(_CUTS["waiting"])
        [(plan.waiting,)] = cur.fetchall()
    return plan


def _write_lines(job: Job, plan: Plan, rows: Iterator[Row], sink: Sink) -> int:
    cut = plan.cut
    names = [column(cut.dimension)] if cut.by_value else []
    names = ["model_id", *names] if cut.by_model else names
    begins = plan.buckets
    lines = CsvLines()
    lines.add(["bucket_start", "org_id", *names, *_FIGURES])
    row_count = 0
    for bucket, _, _, model_id, value, sums in usage_points(rows, plan):
        group = [spreadsheet_text(model_id or "")] if cut.by_model else []
        group += [spreadsheet_text(value or "")] if cut.by_value else []
        *counts, cost = sums[: len(_FIGURES)]
        lines.add([begins[bucket], job.org_id, *group, *counts, cents(cost)])
        row_count += 1
        if row_count % _ROWS_AT_ONCE == 0:
            sink.write(lines.take())
    sink.write(lines.take())
    return row_count
