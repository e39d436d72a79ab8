"""The command: `python -m gateway.incidents --org UUID --start TIME --end TIME > incident.csv`."""

import argparse
import os
import sys
from collections.abc import Sequence

from gateway.http.params import Params
from gateway.http.problems import Problem
from gateway.incidents.export import DEFAULT_ROWS, MAX_ROWS, IncidentExporter
from gateway.incidents.request import PARAMETERS, read_request
from shared.errors import AnalyticsError
from shared.settings import DatabaseSettings, load_or_exit
from shared.usage_event.schema import STATUSES
from shared.validators import argument, org_id

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
    parser.add_argument("--org", required=True, type=argument(org_id), metavar="UUID")
    parser.add_argument("--start", required=True, metavar="TIME", help="RFC 3339 with a zone")
    parser.add_argument("--end", required=True, metavar="TIME", help="not included")
    parser.add_argument("--model", dest="modelId", metavar="ID", help="only this model")
    parser.add_argument("--status", metavar="STATUS", help=f"only {', '.join(STATUSES)}")
    parser.add_argument(
        "--max-rows", dest="maxRows", metavar="N", help=f"default {DEFAULT_ROWS}, at most {MAX_ROWS}"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
