"""The commands beside `run`: their arguments, and where they write."""

import argparse
import sys
from datetime import UTC, date, datetime, timedelta

from rollup_worker.dimensions import drop_dimension
from rollup_worker.remake import backfill
from rollup_worker.verify import Window, rebuild, verify
from shared.clock import utc_now
from shared.errors import AnalyticsError
from shared.postgres import Database
from shared.settings import RollupWorkerSettings
from shared.validators import argument, day, org_id

MAX_DAYS = 1_100
"""Most days a command takes at once: three years."""

_STATEMENT_TIMEOUT_SECONDS = 1800


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; what makes no sense ends the process with exit code 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command in {"verify", "rebuild"}:
        if options.first > options.last:
            parser.error("--from lies after --to")
        if (options.last - options.first).days >= MAX_DAYS:
            parser.error(f"from --from to --to are more than {MAX_DAYS:,} days: take them in parts")
    return options


def run_command(options: argparse.Namespace, settings: RollupWorkerSettings) -> int:
    """Run a command; 0 when all went well, 1 on differences, a refusal or a failure."""
    database = Database(
        settings.database_url,
        application_name=f"rollup_worker {options.command}",
        statement_timeout_seconds=_STATEMENT_TIMEOUT_SECONDS,
    )
    try:
        if options.command == "backfill":
            backfill(
                database, options.dimension, _midnight(options.first) if options.first else None, _write_line
            )
            return 0
        if options.command == "drop-dimension":
            return _drop(options, settings, database)
        window = Window(_midnight(options.first), _midnight(options.last) + timedelta(days=1), options.org)
        if options.command == "verify":
            return 1 if verify(database, window, _write_line) else 0
        rebuild(database, window, _write_line)
    except AnalyticsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        database.close()
    return 0


def _drop(options: argparse.Namespace, settings: RollupWorkerSettings, database: Database) -> int:
    """Drop a dimension, if whoever calls confirms it."""
    name = options.dimension
    if any(each.name == name for each in settings.rollup_dimensions):
        raise AnalyticsError(
            f"ROLLUP_DIMENSIONS still names {name}, so a worker would begin it again: take it out first"
        )
    if not options.yes:
        sys.stderr.write(
            f"All rollups by {name} will be gone, for every organisation. Type {name} to drop them: "
        )
        sys.stderr.flush()
        if sys.stdin.readline().strip() != name:
            raise AnalyticsError("nothing was dropped")
    if not drop_dimension(database, name):
        raise AnalyticsError(f"{name} is not kept")
    _write_line(f"{name} is dropped")
    return 0


def _write_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _midnight(of: date) -> datetime:
    return datetime.combine(of, datetime.min.time(), UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rollup_worker",
        description="Adds committed batches to the rollups. Settings come from the environment.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("run", help="work until SIGTERM (the default)")
    today = utc_now().date()
    for name, text, first in (
        ("verify", "compare rollups with raw events; exit code 1 if any differ", today - timedelta(days=6)),
        ("rebuild", "make rollups again from raw events, while the fleet runs", None),
    ):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument(
            "--from", dest="first", type=argument(day), default=first, required=first is None,
            metavar="YYYY-MM-DD", help="first UTC day" + (" (default: six days ago)" if first else ""),
        )  # fmt: skip
        command.add_argument(
            "--to", dest="last", type=argument(day), default=today,
            metavar="YYYY-MM-DD", help="last UTC day, included (default: today)",
        )  # fmt: skip
        command.add_argument("--org", type=argument(org_id), metavar="UUID", help="one organisation only")
    text = "fill a dimension from raw events, while the fleet runs; again to go on after a stop"
    command = commands.add_parser("backfill", help=text, description=text, allow_abbrev=False)
    command.add_argument("--dimension", required=True, metavar="NAME", help="client, metadata.region, ...")
    command.add_argument(
        "--from", dest="first", type=argument(day), metavar="YYYY-MM-DD",
        help="oldest UTC day to fill (default: the oldest that has raw events)",
    )  # fmt: skip
    text = "drop a dimension with all of its rollups, after it was taken out of ROLLUP_DIMENSIONS"
    command = commands.add_parser("drop-dimension", help=text, description=text, allow_abbrev=False)
    command.add_argument("dimension", metavar="NAME")
    command.add_argument("--yes", action="store_true", help="do not ask")
    return parser
