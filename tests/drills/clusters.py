"""Drills beyond one machine: `python -m tests.drills.clusters [NAME...]`, or `make drills`.

Each has servers of its own. Exit code 1 if a promise broke; then the history and the logs are kept.
"""

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local import machine
from deploy.local.stack import LocalStack
from tests.drills.__main__ import write_line
from tests.drills.citus_nodes import change_nodes
from tests.drills.failover import MAX_PAUSE_SECONDS, fail_over
from tests.drills.lost_nodes import STEPS, lose_nodes
from tests.drills.scene import SHARDS, TEMPLATE
from tests.support import citus_cluster
from tests.support.broker_cluster import BrokerCluster
from tests.support.citus_cluster import CitusStack

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
    broken = {
        finding.kind
        for finding in came.findings
        # A job that was asked for in the time that is lost is not found any more.
        if finding.kind != "status" or finding.count != came.vanished
    } - _LOST_WITH_ASYNCHRONOUS
    return came.lost > 0 and not (came.lost_outside or came.restarted or broken)


def _nodes(home: Path, folder: Path) -> bool:
    with BrokerCluster(home / "brokers") as cluster, _stack(home, cluster.urls[0]) as stack:
        came = lose_nodes(stack, folder, write_line, cluster, *STEPS)
    write_line(str(came))
    slowest = max(max(each.confirm_seconds, each.commit_seconds) for each in came.pauses)
    return slowest < MAX_PAUSE_SECONDS and not (came.findings or came.restarted)


def _citus(home: Path, folder: Path) -> bool:
    if not citus_cluster.is_installed():
        write_line("    not run: Citus is not installed beside PostgreSQL's programs")
        return True
    stack = CitusStack(home, environ={}, shards=SHARDS)
    try:
        stack.start().prepare_database(TEMPLATE)
        stack.make_template(TEMPLATE)
        came = change_nodes(stack, folder, write_line)
    finally:
        stack.stop()
    write_line(str(came))
    slowest = max(max(each.confirm_seconds, each.commit_seconds) for each in came.pauses)
    return slowest < MAX_PAUSE_SECONDS and not (came.findings or came.restarted)


@contextmanager
def _stack(home: Path, rabbitmq_url: str = "") -> Iterator[LocalStack]:
    """Start servers of a drill's own, with the template of its database; RabbitMQ unless there is one."""
    stack = LocalStack(home, environ={"RABBITMQ_URL": rabbitmq_url})
    try:
        stack.start().prepare_database(TEMPLATE)
        stack.make_template(TEMPLATE)
        yield stack
    finally:
        stack.stop()


def _of_postgresql(run: Callable[[LocalStack, Path], bool]) -> Callable[[Path, Path], bool]:
    def drill(home: Path, folder: Path) -> bool:
        with _stack(home) as stack:
            return run(stack, folder)

    return drill


DRILLS: dict[str, Callable[[Path, Path], bool]] = {
    "synchronous standby promoted": _of_postgresql(_synchronous),
    "waits for a standby cancelled": _of_postgresql(_cancelled),
    "asynchronous standby promoted": _of_postgresql(_asynchronous),
    "nodes of RabbitMQ lost": _nodes,
    "nodes of Citus lost and added": _citus,
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
        try:
            if not run(home, folder):
                broken.append(name)
        finally:
            shutil.rmtree(home, ignore_errors=True)
    if not broken:
        shutil.rmtree(kept)
        return 0
    sys.stdout.write(f"\nIt failed: {', '.join(broken)}. Histories and logs: {kept}\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
