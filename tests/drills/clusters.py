"""Drills beyond one machine: `python -m tests.drills.clusters [NAME...]`, or `make drills`.

Each has servers of its own. Exit code 1 if a promise broke; then the history and the logs are kept.
"""

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from deploy.local import machine
from deploy.local.stack import LocalStack
from tests.drills.__main__ import write_line
from tests.drills.failover import fail_over
from tests.drills.scene import TEMPLATE

_LOST_WITH_ASYNCHRONOUS = {"unaudited", "wrong-answer"}
"""What docs/operations.md says is not made whole: the audit log, and sums that fall until all is there."""


def _synchronous(stack: LocalStack, folder: Path) -> bool:
    came = fail_over(stack, folder, write_line, synchronous=True)
    write_line(str(came))
    return not (came.findings or came.restarted)


def _cancelled(stack: LocalStack, folder: Path) -> bool:
    came = fail_over(stack, folder, write_line, synchronous=True, cancel_waits=True)
    write_line(str(came))
    broken = {finding.kind for finding in came.findings} - {"wrong-answer"}  # what was cancelled is shown
    return came.cancelled > 0 and not (came.restarted or broken)


def _asynchronous(stack: LocalStack, folder: Path) -> bool:
    came = fail_over(stack, folder, write_line, synchronous=False)
    write_line(str(came))
    broken = {finding.kind for finding in came.findings} - _LOST_WITH_ASYNCHRONOUS
    return came.lost > 0 and not (came.lost_outside or came.restarted or broken)


DRILLS: dict[str, Callable[[LocalStack, Path], bool]] = {
    "synchronous standby promoted": _synchronous,
    "waits for a standby cancelled": _cancelled,
    "asynchronous standby promoted": _asynchronous,
}


def main(names: list[str]) -> int:
    """Run the drills whose names begin so, all without."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes and servers end too
    kept = Path(tempfile.mkdtemp(prefix="analytics-drill-run-"))
    broken = []
    for number, (name, run) in enumerate(DRILLS.items()):
        if names and not name.startswith(tuple(names)):
            continue
        write_line(name)
        folder = kept / str(number)
        folder.mkdir()
        home = machine.temporary_home("analytics-drill-")
        stack = LocalStack(home, environ={})
        try:
            stack.start().prepare_database(TEMPLATE)
            stack.make_template(TEMPLATE)
            if not run(stack, folder):
                broken.append(name)
        finally:
            stack.stop()
            shutil.rmtree(home, ignore_errors=True)
    if not broken:
        shutil.rmtree(kept)
        return 0
    sys.stdout.write(f"\nIt failed: {', '.join(broken)}. Histories and logs: {kept}\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
