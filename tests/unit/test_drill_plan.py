"""Plans of drills: a seed makes one plan, its file brings it back, and its faults fit together."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.drills.faults import FAULTS
from tests.drills.mutants import MUTANTS
from tests.drills.plan import Plan, Step, make_plan

SECONDS = 120.0


def test_a_seed_makes_the_same_plan_each_time_and_another_seed_another() -> None:
    assert make_plan(7, SECONDS) == make_plan(7, SECONDS)
    assert make_plan(7, SECONDS) != make_plan(8, SECONDS)


@given(st.integers(0, 2**32))
@settings(deadline=None)
def test_two_faults_at_most_are_held_at_once_and_never_two_of_one_target(seed: int) -> None:
    plan = make_plan(seed, SECONDS)
    assert len(plan.steps) > 10
    for step in plan.steps:
        low, high = FAULTS[step.fault].seconds
        assert low - 0.001 <= step.seconds <= high + 0.001
        assert step.at + step.seconds <= SECONDS + 0.002
        beside = [each for each in plan.steps if each.at < step.at + 0.001 < each.at + each.seconds - 0.002]
        others = [each for each in beside if each != step]
        assert len(others) <= 1
        assert FAULTS[step.fault].target not in {FAULTS[each.fault].target for each in others}


def test_two_hundred_plans_have_every_fault_that_has_a_weight() -> None:
    chosen = {step.fault for seed in range(200) for step in make_plan(seed, SECONDS).steps}
    assert chosen == {fault.name for fault in FAULTS.values() if fault.weight}


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = make_plan(9, SECONDS)
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan


def test_a_plan_with_an_unknown_fault_is_refused(tmp_path: Path) -> None:
    Plan(None, 1.0, (Step(0.0, "moon.eclipse", 1.0),)).write(tmp_path / "plan.json")
    with pytest.raises(ValueError, match=r"no such fault: moon\.eclipse"):
        Plan.read(tmp_path / "plan.json")


def test_the_mistakes_of_the_mutants_can_still_be_made() -> None:
    root = Path(__file__).resolve().parents[2]
    for mutant in MUTANTS:
        for name, old, _ in mutant.patches:
            assert (root / name).read_text(encoding="utf-8").count(old) == 1, (mutant.name, old)
