"""Plans: which fault begins when, and for how long. A seed makes a plan; its file can be run again.

The same seed makes the same plan, and not the same interleaving: what the processes are doing when a fault
begins depends on the machine.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.drills.fault import Fault
from tests.drills.faults import FAULTS

_MAX_PAUSE_SECONDS = 3.0
_LANES = 2


@dataclass(frozen=True, order=True)
class Step:
    """A fault of a plan. at, seconds: when it begins after the plan's begin, and how long it is held."""

    at: float
    fault: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they begin. seconds: until the last has ended. seed: None if by hand."""

    seed: int | None
    seconds: float
    steps: tuple[Step, ...]

    def write(self, path: Path) -> None:
        """Write it to a file."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read it from a file. Raises ValueError for an unknown fault."""
        given = json.loads(path.read_text(encoding="utf-8"))
        steps = tuple(Step(**step) for step in given["steps"])
        if unknown := sorted({step.fault for step in steps} - FAULTS.keys()):
            raise ValueError(f"no such fault: {', '.join(unknown)}")
        return cls(given["seed"], given["seconds"], steps)


def make_plan(seed: int, seconds: float, faults: Mapping[str, Fault] = FAULTS) -> Plan:
    """Make the plan of a seed: two faults at a time at most, and never two of one target."""
    rng = random.Random(seed)
    free_at = [0.0] * _LANES
    busy: dict[str, float] = {}
    steps: list[Step] = []
    while True:
        lane = free_at.index(min(free_at))
        at = free_at[lane] + rng.uniform(0.2, _MAX_PAUSE_SECONDS)
        choice = [fault for fault in faults.values() if fault.weight and busy.get(fault.target, 0.0) <= at]
        [fault] = rng.choices(choice, [each.weight for each in choice])
        held = rng.uniform(*fault.seconds)
        if at + held > seconds:
            break
        free_at[lane] = busy[fault.target] = at + held
        steps.append(Step(round(at, 3), fault.name, round(held, 3)))
    return Plan(seed, seconds, tuple(sorted(steps)))
