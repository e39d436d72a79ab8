"""Runs the drills: `python -m tests.drills [--seed N] [--minutes N] [--plan FILE]`, or `make drills`.

Mutants first, then an upgrade, then every fault once by name, then random plans. Exit code 1 if an invariant
broke or a mutant was not caught; then the plans and the history are kept, and the last line says where.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from deploy.local import machine
from deploy.local.stack import LocalStack
from tests.drills.disk import SmallDisk
from tests.drills.drill import Drill, Outcome
from tests.drills.faults import FAULTS
from tests.drills.history import History
from tests.drills.mutants import is_caught, run_mutants
from tests.drills.plan import Plan, make_plan
from tests.drills.report import holdings, table, totals
from tests.drills.scene import TEMPLATE, Scene, new_stack
from tests.drills.upgrade import upgrade
from tests.support.release_before import NoReleaseBefore

_PLAN_SECONDS = 60.0


def write_line(message: str) -> None:
    """Print a line of progress with the time."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S}  {message}\n")
    sys.stderr.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    minutes = float(os.environ.get("DRILL_MINUTES", "10"))
    parser.add_argument("--seed", type=int, help="of the first random plan; each next has the next number")
    parser.add_argument(
        "--minutes", type=float, default=minutes, help="of random plans (DRILL_MINUTES or 10)"
    )
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--plan", type=Path, help="run this plan alone, again")
    alone.add_argument("--fault", nargs="+", metavar="NAME", choices=FAULTS, help="run these faults alone")
    alone.add_argument("--random", action="store_true", help="run random plans alone")
    alone.add_argument("--mutants", action="store_true", help="run the mutants alone")
    alone.add_argument("--upgrade", action="store_true", help="upgrade from the release before, alone")
    return parser.parse_args()


def main() -> int:
    """Run what was asked for."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes and servers end too
    kept = Path(tempfile.mkdtemp(prefix="analytics-drill-run-"))
    home = machine.temporary_home("analytics-drill-")
    stack = new_stack(home, write_line)
    held = True
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, home, ignore_errors=True)
        disk = _small_disk(home, undo)
        undo.callback(stack.stop)
        stack.start().prepare_database(TEMPLATE)
        stack.make_template(TEMPLATE)
        if not (options.plan or options.fault or options.random or options.upgrade):
            held = _run_mutants(stack)
        if options.upgrade or not (options.plan or options.fault or options.random or options.mutants):
            held = _run_upgrade(stack, kept) and held
        if not (options.mutants or options.upgrade):
            held = _run_faults(stack, kept, options, disk) and held
    if held:
        shutil.rmtree(kept)
        return 0
    sys.stdout.write(f"\nIt failed. Plans, history and logs: {kept}\n")
    return 1


def _small_disk(home: Path, undo: contextlib.ExitStack) -> SmallDisk | None:
    """Put PostgreSQL's data on a small disk of their own where that is allowed."""
    try:
        return undo.enter_context(SmallDisk(home / "postgres"))
    except OSError as error:
        write_line(f"no disk is full in this run: {error}")
        return None


def _run_mutants(stack: LocalStack) -> bool:
    """Run the mutants; return whether each was caught."""
    caught = []
    for mutant, findings in run_mutants(stack, write_line):
        caught.append(is_caught(mutant, findings))
        verdict = "caught" if caught[-1] else "NOT CAUGHT"
        sys.stdout.write(f"mutant: {mutant.name}: {verdict}, found: {findings}\n")
        sys.stdout.flush()
    return all(caught)


def _run_upgrade(stack: LocalStack, kept: Path) -> bool:
    """Upgrade a fleet under load; return whether every invariant held."""
    try:
        outcome = upgrade(stack, kept / "upgrade", write_line)
    except NoReleaseBefore as missing:
        write_line(f"no upgrade: {missing}")
        return not missing.is_fault
    sys.stdout.write(table([outcome]))
    sys.stdout.flush()
    return not outcome.findings


def _run_faults(stack: LocalStack, kept: Path, options: argparse.Namespace, disk: SmallDisk | None) -> bool:
    """Run faults by name and plans; return whether every invariant held."""
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    history = History(kept / "history.jsonl")
    outcomes: list[Outcome] = []
    began = time.monotonic()
    with Scene(stack, kept, "run", disk=disk) as scene:
        drill = Drill(scene, history, write_line)
        at_start = scene.holdings()
        drill.note_holdings()
        drill.load.start()
        try:
            if options.plan:
                plan = Plan.read(options.plan)
                shutil.copy(options.plan, kept / "plan.json")
                _note(outcomes, drill.run_plan(plan, options.plan.name))
            if not (options.plan or options.random):
                _run_named(drill, options.fault or list(FAULTS), outcomes)
            if not (options.plan or options.fault):
                _run_random(drill, seed, options.minutes, kept, outcomes)
            held = holdings(at_start, scene.holdings())
        finally:
            drill.load.stop()
            history.close()
    seconds = time.monotonic() - began
    sys.stdout.write(table(outcomes) + totals(drill.verdict, drill.struck, outcomes, seconds) + held)
    return drill.verdict.holds and not any(outcome.findings for outcome in outcomes)


def _run_named(drill: Drill, names: list[str], outcomes: list[Outcome]) -> None:
    for name in names:
        fault = FAULTS[name]
        write_line(f"{name}, which may break {fault.can_break}")
        _note(outcomes, drill.run_fault(fault, sum(fault.seconds) / 2))


def _run_random(drill: Drill, seed: int, minutes: float, kept: Path, outcomes: list[Outcome]) -> None:
    until = time.monotonic() + 60 * minutes
    while (left := until - time.monotonic()) > 5:
        plan = make_plan(seed, min(_PLAN_SECONDS, left))
        plan.write(kept / f"plan-{seed}.json")
        write_line(f"seed {seed}: {len(plan.steps)} faults in {plan.seconds:.0f} s")
        _note(outcomes, drill.run_plan(plan, f"seed {seed}"))
        seed += 1


def _note(outcomes: list[Outcome], outcome: Outcome) -> None:
    outcomes.append(outcome)
    verdict = "; ".join(str(each) for each in outcome.findings) or "all held"
    write_line(f"    {outcome.happened}; {verdict}; well again after {outcome.recovery_seconds:.1f} s")


if __name__ == "__main__":
    raise SystemExit(main())
