"""Incident exports: the raw events of a window as CSV, for whoever looks into an incident.

Over HTTP (GET /orgs/{orgId}/incidents/export), as a command that writes to standard output:

    python -m gateway.incidents --org UUID --start 2026-11-01T09:00:00Z --end 2026-11-01T10:00:00Z > it.csv

and as a library call:

    exporter = IncidentExporter.of(database_url)
    with exporter.export(IncidentRequest(org_id, start, end, model_id="gpt", max_rows=10_000)) as incident:
        for piece in incident:
            file.write(piece)
    incident.truncated  # whether there were more than max_rows

The events come from one snapshot, in the order they occurred, and memory does not grow with them.
"""

import argparse
import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import ClassVar, Self

import falcon

from gateway.authorize import INCIDENTS_EXPORT
from gateway.params import Params
from gateway.problems import Problem
from gateway.slots import Slots
from shared.errors import AnalyticsError
from shared.postgres import Cursor, Database, Pool
from shared.settings import DatabaseSettings, load_or_exit
from shared.statements import load_statements
from shared.usage_event.text import org_id_text

COLUMNS = (
    "event_id", "org_id", "occurred_at", "received_at", "model_id", "actor_id", "input_tokens",
    "output_tokens", "latency_ms", "status", "error_code", "cost_estimate_cents", "metadata",
)  # fmt: skip
DEFAULT_ROWS = 10_000
MOST_ROWS = 1_000_000
STATUSES = ("success", "error", "timeout", "throttled")

PARAMETERS = ("start", "end", "modelId", "status", "maxRows")

# Exports have connections of their own, so that slow downloads never hold up the other reads.
_CONNECTIONS = 2
_WAIT_SECONDS = 2.0
_LIMIT_SECONDS = 900.0

_TEXT_COLUMNS = (4, 5, 10)  # those whose texts producers choose; metadata starts with a brace

_SQL = load_statements("incidents.sql")


@dataclass(frozen=True)
class IncidentRequest:
    """Which events: of an organisation (lower-case UUID), in [start, end), perhaps of one model or status."""

    org_id: str
    start: datetime
    end: datetime
    model_id: str | None = None
    status: str | None = None
    max_rows: int = DEFAULT_ROWS

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None or self.start >= self.end:
            raise ValueError("start and end must have a zone, and end must be later than start")
        if self.status not in (None, *STATUSES):
            raise ValueError(f"status must be None or one of {', '.join(STATUSES)}")
        if not 1 <= self.max_rows <= MOST_ROWS:
            raise ValueError(f"max_rows must be from 1 to {MOST_ROWS}")


def read_request(params: Params, org_id: str) -> IncidentRequest:
    """Read what is asked for, over HTTP or on a command line. Raises Problem 400 that names every fault."""
    start, end = params.time("start"), params.time("end")
    if start and end and start >= end:
        params.fault("end", "must be later than start")
    model_id = params.text("modelId", most=200)
    status = params.choice("status", STATUSES)
    max_rows = params.whole_number("maxRows", low=1, high=MOST_ROWS, default=DEFAULT_ROWS)
    params.check()
    assert start is not None  # noqa: S101  check() has raised otherwise
    assert end is not None  # noqa: S101
    return IncidentRequest(org_id, start, end, model_id, status, max_rows)


class Incident:
    """An open export: iterate once over its CSV, in UTF-8 pieces, then close it."""

    def __init__(self, cur: Cursor, resources: ExitStack, *, truncated: bool) -> None:
        self.truncated = truncated
        self._cur = cur
        self._resources = resources

    def __iter__(self) -> Iterator[bytes]:
        buffer = io.StringIO(newline="")
        plain = csv.writer(buffer, lineterminator="\n")
        # csv sees no need to quote a carriage return when lines end without one; readers do.
        quoting = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(COLUMNS)
        while True:
            self._cur.execute(_SQL["fetch"])
            rows = self._cur.fetchall()
            for row in rows:
                writer = quoting if any("\r" in (row[at] or "") for at in _TEXT_COLUMNS) else plain
                writer.writerow(row)
            yield buffer.getvalue().encode()
            if not rows:
                return
            buffer.seek(0)
            buffer.truncate()

    def closes_also(self, held: ExitStack) -> None:
        """Let go of something else when this is closed."""
        self._resources.push(held)

    def close(self) -> None:
        """Give the connection back."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)


class IncidentExporter:
    """Opens exports on connections lent by a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @classmethod
    def of(cls, database_url: str, *, connections: int = _CONNECTIONS) -> "IncidentExporter":
        """Make an exporter with connections of its own, opened when first needed."""
        return cls(Pool(lambda: Database(database_url, application_name="incident export"), connections))

    def export(self, request: IncidentRequest) -> Incident:
        """Count the events and open the export. Raises DatabaseUnavailable, also while it is read."""
        with ExitStack() as opening:
            database = opening.enter_context(self._pool.lend(wait_seconds=_WAIT_SECONDS))
            cur = opening.enter_context(
                database.transaction(repeatable_read=True, read_only=True, time_limit_seconds=_LIMIT_SECONDS)
            )
            parameters = vars(request)
            cur.execute(_SQL["count_up_to"], parameters)
            row = cur.fetchone()
            truncated = row is not None and row[0] > request.max_rows
            cur.execute(_SQL["open"], parameters)
            return Incident(cur, opening.pop_all(), truncated=truncated)


class IncidentsResource:
    """GET /orgs/{orgId}/incidents/export"""

    NEEDS: ClassVar = {"GET": INCIDENTS_EXPORT}

    def __init__(self, exporter: IncidentExporter, streams: Slots) -> None:
        self._exporter = exporter
        self._streams = streams

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str) -> None:
        """Answer with a stream of CSV; X-Truncated tells whether rows were cut off."""
        request = read_request(Params(req.query_string, *PARAMETERS), org_id)
        with ExitStack() as opening:
            opening.enter_context(self._streams.slot(req))
            incident = self._exporter.export(request)
            incident.closes_also(opening.pop_all())
        resp.set_header("X-Truncated", "true" if incident.truncated else "false")
        resp.set_header("Cache-Control", "private, no-store")
        resp.content_type = "text/csv; charset=utf-8; header=present"
        resp.downloadable_as = f"incident-{org_id}-{request.start:%Y%m%dT%H%M%SZ}.csv"
        resp.stream = incident


_OPTIONS = {
    "start": "--start",
    "end": "--end",
    "modelId": "--model",
    "status": "--status",
    "maxRows": "--max-rows",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: 0 when the file is whole or cut at --max-rows, 1 when it failed.

    2 when the options are wrong.
    """
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    try:
        request = read_request(Params.of(options, *PARAMETERS), options["org"])
    except Problem as problem:
        faults = (f"{_OPTIONS[fault['field']]} {fault['reason']}" for fault in problem.faults)
        parser.error("; ".join(faults))
    settings = load_or_exit(DatabaseSettings, os.environ)
    try:
        with IncidentExporter.of(settings.database_url, connections=1).export(request) as incident:
            for piece in incident:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    except AnalyticsError as error:
        sys.stderr.write(f"the export failed, what was written is not whole: {error}\n")
        return 1
    if incident.truncated:
        sys.stderr.write(f"there are more events: cut off at {request.max_rows}, raise --max-rows\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway.incidents",
        description="Writes the raw events of a window as CSV to standard output. Needs DATABASE_URL.",
    )
    parser.add_argument("--org", required=True, type=org_id_text, metavar="UUID")
    parser.add_argument("--start", required=True, metavar="TIME", help="RFC 3339 with a zone")
    parser.add_argument("--end", required=True, metavar="TIME", help="not included")
    parser.add_argument("--model", dest="modelId", metavar="ID", help="only this model")
    parser.add_argument("--status", metavar="STATUS", help=f"only {', '.join(STATUSES)}")
    parser.add_argument(
        "--max-rows", dest="maxRows", metavar="N", help=f"default {DEFAULT_ROWS}, at most {MOST_ROWS}"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
