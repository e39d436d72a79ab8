"""Runs benchmarks on local servers with durable commits: `python -m tests.benchmarks [NAME ...]`.

Each figure stands beside a peer measured in the same run, because absolute numbers say more about the
machine than about us. The table also goes to bench-results.txt. Exit code 1 if a limit does not hold.
"""

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from deploy.local.checkout import ROOT
from deploy.local.stack import LocalStack
from tests.benchmarks.place import TEMPLATE
from tests.benchmarks.rows import BenchRow
from tests.support import citus_cluster

BENCHMARKS = (
    "drain",
    "dimensions",
    "batches",
    "flood",
    "freshness",
    "reads",
    "questions",
    "exports",
    "flat",
    "ledger",
    *(["citus"] if citus_cluster.is_installed() else []),
)
"""Modules of this package, each with run(stack, write_line) that returns its rows."""


def write_line(message: str) -> None:
    """Print a line of progress with the time."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S}  {message}\n")


def table(rows: list[BenchRow]) -> str:
    """Write the rows for a person."""
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, Python {sys.version.split()[0]}",
        "",
        f"{'':34} {'measured':>10}  {'beside':<32} {'ratio':>6}  {'limit':>8}",
    ]
    for row in rows:
        beside = f"{_short(row.peer)} {row.unit} {row.peer_name}"
        limit = ("≥ " if row.limit_is == "least" else "≤ ") + f"{row.limit:g}"
        verdict = "holds" if row.holds else "FAILS"
        lines.append(
            f"{row.name:34} {_short(row.measured):>10}  {beside:<32} {row.ratio:>6.2f}  {limit:>8}"
            f"  {verdict}{'  ' + row.note if row.note else ''}"
        )
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> int:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}")
    names = parser.parse_args().names or BENCHMARKS
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes and servers end too
    home = Path(tempfile.mkdtemp(prefix="analytics-benchmarks-"))
    # The cache a server of this size would be given, for indexes of ten million keys.
    stack = LocalStack(home, shared_buffers="1GB", environ={}, write_line=write_line)
    rows: list[BenchRow] = []
    try:
        stack.start().prepare_database(TEMPLATE)
        for name in names:
            began = time.monotonic()
            rows += importlib.import_module(f"tests.benchmarks.{name}").run(stack, write_line)
            write_line(f"{name} took {time.monotonic() - began:.0f} s")
    finally:
        stack.stop()
        shutil.rmtree(home, ignore_errors=True)
    text = table(rows)
    sys.stdout.write(text)
    (ROOT / "bench-results.txt").write_text(text, encoding="utf-8")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
