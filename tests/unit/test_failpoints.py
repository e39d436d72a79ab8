"""Failpoints lead somewhere in the code, and a name that does not ends the process."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from deploy.local.checkout import ROOT
from tests.support.failpoints import POINTS, Failpoint, Point, arm


def copy_of(name: str) -> ModuleType:
    """A module that may be changed: the test's own process runs the other."""
    module = import_module(name)
    changed = ModuleType(name)
    for key, value in vars(module).items():
        is_class_of_it = isinstance(value, type) and value.__module__ == name
        changed.__dict__[key] = (
            type(key, (), dict(vars(value))) if is_class_of_it and key in _CLASSES else value
        )
    return changed


_CLASSES = {point.function.partition(".")[0] for point in POINTS.values() if "." in point.function}


@pytest.mark.parametrize("name", POINTS)
def test_each_point_is_in_the_code_of_its_process(name: str) -> None:
    point = POINTS[name]
    assert point.module.partition(".")[0] == name.partition(".")[0]
    arm(point, copy_of(point.module), lambda: None)


@pytest.mark.parametrize(
    "point",
    [
        Point("ingestor.store", "", function="BatchStore.stare"),
        Point("ingestor.store", "", function="BatchShop.store"),
        Point("ingestor.store", "", statement="stored"),
    ],
)
def test_a_point_that_is_not_in_the_code_is_an_error(point: Point) -> None:
    with pytest.raises((AttributeError, KeyError)):
        arm(point, copy_of(point.module), lambda: None)


def run(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ingestor"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_wrong_name_ends_the_process_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Failpoint("ingestor.nowhere", tmp_path)
    for wrong in ({"FAILPOINT": "ingestor.nowhere"}, {"FAILPOINT_ACTION": "sing"}):
        done = run(Failpoint("ingestor.committed", tmp_path).environ | wrong)
        assert done.returncode == 70, done
    done = run(Failpoint("gateway.committed", tmp_path).environ)
    assert done.returncode == 70
    assert "is no point of" in done.stderr


def test_without_the_folder_of_tests_the_variables_do_nothing(tmp_path: Path) -> None:
    environ = Failpoint("ingestor.committed", tmp_path).environ
    del environ["PYTHONPATH"]
    assert run(environ).returncode == 2  # settings are missing
