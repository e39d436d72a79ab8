"""Delivers export jobs as CSV objects: `python -m export_worker [run]`; also `schedule-monthly`."""

import argparse
import os
import sys

from export_worker.monthly import schedule_monthly
from export_worker.worker import Worker
from shared.clock import utc_now
from shared.errors import AnalyticsError
from shared.logs import configure_logs, log_start
from shared.postgres import Database
from shared.process import Stop, exit_code
from shared.settings import ExportWorkerSettings, ScheduleMonthlySettings, load_or_exit


def run() -> int:
    """Work until SIGTERM or SIGINT."""
    settings = load_or_exit(ExportWorkerSettings, os.environ)
    log = configure_logs(settings, "export_worker")
    log_start(log, settings, os.environ)
    return exit_code(lambda: Worker(settings, Stop.on_signals()).run())


def schedule() -> int:
    """Create last month's jobs and say how many; 1 when the database did not do its part."""
    settings = load_or_exit(ScheduleMonthlySettings, os.environ)
    configure_logs(settings, "export_worker")
    database = Database(settings.database_url, application_name="export_worker schedule-monthly")
    try:
        created = schedule_monthly(database, utc_now())
    except AnalyticsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        database.close()
    sys.stdout.write(f"{created} monthly export jobs created\n")
    return 0


def main() -> int:
    """Choose the command."""
    parser = argparse.ArgumentParser(
        prog="python -m export_worker",
        description="Delivers export jobs as CSV objects in S3. Settings come from the environment.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("run", help="work until SIGTERM (the default)")
    commands.add_parser(
        "schedule-monthly",
        help="create a monthly job for each organisation's previous UTC month, once however often it runs",
    )
    command = parser.parse_args().command
    return schedule() if command == "schedule-monthly" else run()


if __name__ == "__main__":
    raise SystemExit(main())
