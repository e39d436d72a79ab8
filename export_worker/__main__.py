"""Delivers export jobs as CSV objects: `python -m export_worker`."""

import os

from export_worker.worker import Worker
from shared.logs import configure_logs
from shared.process import Stop
from shared.settings import ExportWorkerSettings, load_or_exit, masked


def main() -> int:
    """Settings, logs, run; 0 after SIGTERM or SIGINT."""
    settings = load_or_exit(ExportWorkerSettings, os.environ)
    log = configure_logs(settings, "export_worker")
    log.info("starting", settings=masked(settings))
    Worker(settings, Stop.on_signals()).run()
    log.info("stopped")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
