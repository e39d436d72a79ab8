"""The rollup worker: `python -m rollup_worker [run]`, and its commands (see `--help`)."""

import os

from rollup_worker.commands import read_arguments, run_command
from rollup_worker.worker import Worker
from shared.logs import configure_logs, log_start
from shared.process import Stop, exit_code
from shared.settings import RollupWorkerSettings, load_or_exit


def main() -> int:
    """Arguments, settings, logs, then the command; 0 when all went well, 1 on differences or a failure."""
    options = read_arguments()
    settings = load_or_exit(RollupWorkerSettings, os.environ)
    log = configure_logs(settings, "rollup_worker")
    if options.command not in {None, "run"}:
        return run_command(options, settings)
    log_start(log, settings, os.environ)
    return exit_code(lambda: Worker(settings, Stop.on_signals()).run())


if __name__ == "__main__":
    raise SystemExit(main())
