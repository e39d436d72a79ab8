"""`make demo`: starts everything, publishes traffic, shows what came of it, and keeps running.

Ctrl-C ends it. With DEMO_EXIT=1 it ends by itself: exit code 0 when every number added up, 1 when
one did not.
"""

import os
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from deploy.local.api import Api
from deploy.local.demo.report import Report
from deploy.local.demo.steps import STEPS, Demo
from deploy.local.launcher import LocalFleet, run_fleet, write_line
from deploy.local.observer import Observer


def main() -> int:
    """Run the demo; 0 when everything added up."""
    set_dimensions()
    return run_fleet("make demo", _show)


def set_dimensions() -> None:
    """Keep one of the tags too, unless somebody has chosen, so that there is something to cut by."""
    os.environ.setdefault("ROLLUP_DIMENSIONS", "client,apiKey,provider,operation,actor:day,metadata.region")


def _show(fleet: LocalFleet) -> int:
    report = Report()
    try:
        run_steps(fleet, report)
    except AssertionError as error:
        sys.stderr.write(f"\nthe demo failed: {error}\n")
        return 1
    code = report.verdict()
    if os.environ.get("DEMO_EXIT") != "1":
        report.commands(fleet.urls["GATEWAY_URL"], report.example_org)
        report.console(fleet.console_url)
        write_line("still running; press Ctrl-C to stop everything")
        with suppress(KeyboardInterrupt):
            fleet.wait()
    return code


def run_steps(fleet: LocalFleet, report: Report) -> None:
    """Run the steps one after another on the running fleet."""
    settings = fleet.stack.settings
    observer = Observer(
        settings["DATABASE_URL"], settings["RABBITMQ_URL"], "analytics.usage.v1", "analytics.usage.v1.dlq"
    )
    now = datetime.now(UTC)
    demo = Demo(
        api=Api(fleet.urls["GATEWAY_URL"]),
        observer=observer,
        urls=fleet.urls,
        settings=settings,
        start=now - timedelta(days=14),
        end=now,
        write_line=write_line,
        report=report,
    )
    try:
        for step in STEPS:
            step(demo)
    finally:
        observer.close()


if __name__ == "__main__":
    raise SystemExit(main())
