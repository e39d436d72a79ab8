"""The rollup worker: `python -m rollup_worker [run]`, and the commands `verify` and `rebuild`."""

import argparse
import os
import sys
import uuid
from datetime import UTC, date, datetime, timedelta

from rollup_worker.verify import Window, rebuild, verify
from rollup_worker.worker import Worker
from shared.buckets import bucket_start
from shared.clock import utc_now
from shared.db import Database
from shared.errors import AnalyticsError
from shared.logs import configure_logs, log_start
from shared.process import Stop
from shared.settings import RollupWorkerSettings, load_or_exit


def main() -> int:
    """Settings, logs, then the command; 0 when all went well, 1 on differences or a failure."""
    arguments = _parser().parse_args()
    settings = load_or_exit(RollupWorkerSettings, os.environ)
    log = configure_logs(settings, "rollup_worker")
    if arguments.command in {None, "run"}:
        log_start(log, settings, os.environ)
        Worker(settings, Stop.on_signals()).run()
        log.info("stopped")
        return 0
    database = Database(
        settings.database_url,
        application_name=f"rollup_worker {arguments.command}",
        statement_timeout_seconds=1800,
    )
    try:
        return _command(arguments, settings, database)
    except AnalyticsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        database.close()


def _command(arguments: argparse.Namespace, settings: RollupWorkerSettings, database: Database) -> int:
    """Run verify or rebuild over the window the arguments name."""
    window = Window(
        datetime.combine(arguments.first, datetime.min.time(), UTC),
        datetime.combine(arguments.last, datetime.min.time(), UTC) + timedelta(days=1),
        str(arguments.org) if arguments.org else None,
    )
    if window.start >= window.end:
        raise AnalyticsError("--from lies after --to")
    if arguments.command == "verify":
        return 1 if verify(database, window, _say) else 0
    kept_since = bucket_start(utc_now() - settings.event_retention, "day") + timedelta(days=1)
    rebuild(database, window, raw_since=kept_since, say=_say)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


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
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--from", dest="first", type=date.fromisoformat, default=first, required=first is None,
            metavar="YYYY-MM-DD", help="first UTC day" + (" (default: six days ago)" if first else ""),
        )  # fmt: skip
        command.add_argument(
            "--to", dest="last", type=date.fromisoformat, default=today,
            metavar="YYYY-MM-DD", help="last UTC day, included (default: today)",
        )  # fmt: skip
        command.add_argument("--org", type=uuid.UUID, metavar="UUID", help="one organisation only")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
