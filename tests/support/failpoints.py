"""Failpoints: named moments inside the fleet's processes, at which one kills or stops itself.

    failpoint = Failpoint("ingestor.committed", folder)
    process = fleet.start(failpoint.process, None, **failpoint.environ)
    failpoint.wait()                    # it was there, and killed itself with SIGKILL
    fleet.start(failpoint.process)      # start it again, without

A drill does the same with `scene.fleet.start(SLOTS[slot], None, **failpoint.environ)`, and adds the slot to
`scene.down` before, so that nobody else starts it again. With action="pause" the process stops itself with
SIGSTOP and goes on after SIGCONT; wait() returns its id. POINTS has the names; each begins with that of its
process.

The fleet's code knows nothing of this. A process finds it only through PYTHONPATH, whose sitecustomize.py
(tests/support/failpoint_site) calls install() before anything else runs; what the point names is wrapped when
its module is imported. A name that leads nowhere ends the process at once, with exit code 70. Each Failpoint
strikes once, in the first process that leaves its mark, a file: gunicorn starts a worker that killed itself
again, with the same environment.

This module imports nothing but the standard library: it comes before the code of the fleet.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from signal import SIGKILL, SIGSTOP
from types import ModuleType
from typing import Any
from uuid import uuid4

_SITE = Path(__file__).parent / "failpoint_site"
_SIGNALS = {"kill": SIGKILL, "pause": SIGSTOP}
_NAME, _ACTION, _MARK = "FAILPOINT", "FAILPOINT_ACTION", "FAILPOINT_MARK"
_WRONG = 70


@dataclass(frozen=True)
class Point:
    """A moment: when a function is called or has returned, or when a statement is about to be used.

    function: its name in the module, such as `BatchStore.store`. if_any: only when it returned something.
    before: when it is called. statement: its name in the module's `_SQL`. nth: of its uses, which.
    """

    module: str
    moment: str
    function: str = ""
    before: bool = False
    if_any: bool = False
    statement: str = ""
    nth: int = 1


POINTS = {
    "ingestor.stored": Point(
        "ingestor.store", "a batch's rows are sent, and not committed", function="_copy_events"
    ),
    "ingestor.committed": Point(
        "ingestor.store", "a batch is committed, and not acknowledged", function="BatchStore.store"
    ),
    "ingestor.dead_letter_confirmed": Point(
        "ingestor.settlement",
        "the broker has a dead letter, and its message is not acknowledged",
        function="Settlement._confirmed",
        before=True,
    ),
    "rollup_worker.hours_added": Point(
        "rollup_worker.parts",
        "a claim is added to the models' hours, and not to their days",
        statement="add",
        nth=2,
    ),
    "rollup_worker.added": Point(
        "rollup_worker.rollups", "a claim is added to every part, and not marked", statement="mark_batches"
    ),
    "rollup_worker.committed": Point(
        "rollup_worker.rollups",
        "a claim is committed, and not counted or logged",
        function="Rollups.add_waiting",
        if_any=True,
    ),
    "rollup_worker.merged": Point(
        "rollup_worker.merge", "the rows of an hour are merged, and not committed", function="_merge"
    ),
    "rollup_worker.past_merged": Point(
        "rollup_worker.merge",
        "a past hour is merged and committed, and not added to its day",
        function="Merge.merge_past",
    ),
    "rollup_worker.hour_added": Point(
        "rollup_worker.days",
        "a past hour is added to its day, and not noted as added",
        statement="hour_added",
    ),
    "rollup_worker.part_closed": Point(
        "rollup_worker.key_parts",
        "a part of the ledger is closed, and has no filter",
        function="KeyParts.close",
        if_any=True,
    ),
    "rollup_worker.filter_sent": Point(
        "rollup_worker.key_parts",
        "slices of a filter are sent, and neither committed nor noted",
        statement="note_filter",
    ),
    "rollup_worker.percentiles_kept": Point(
        "rollup_worker.percentiles",
        "some percentiles are kept, and others not",
        function="Percentiles._keep",
        if_any=True,
    ),
    "rollup_worker.pruned": Point(
        "rollup_worker.upkeep",
        "old rollups are removed, and their days not recorded as dropped",
        statement="record_dropped_rollups",
    ),
    "rollup_worker.day_cleared": Point(
        "rollup_worker.parts",
        "a rebuild has cleared a day, and made half of it again",
        statement="gather_hour",
        nth=12,
    ),
    "export_worker.claimed": Point(
        "export_worker.jobs", "a job is claimed, and nothing done", function="Jobs.claim", if_any=True
    ),
    "export_worker.object_stored": Point(
        "export_worker.delivery",
        "a job's object is whole in the store, and its row does not say so",
        function="Delivery.run",
    ),
    "export_worker.objects_removed": Point(
        "export_worker.upkeep",
        "an expired job's objects are removed, and its row does not say so",
        statement="mark_removed",
    ),
    "gateway.committed": Point(
        "gateway.database",
        "an audit row or an export job is committed, and not answered",
        function="GatewayDatabase.transaction",
    ),
}
"""Every failpoint by its name."""


class Failpoint:
    """One of POINTS, armed once. environ: what a process that shall meet it is started with.

    folder: where its mark is left. action: kill or pause. Raises KeyError for a name that is none.
    """

    def __init__(self, name: str, folder: Path, action: str = "kill") -> None:
        self.name = name
        self.moment = POINTS[name].moment
        self.process = name.partition(".")[0]
        self._mark = folder / f"failpoint-{name}-{uuid4().hex[:8]}"
        self.environ = {
            "PYTHONPATH": str(_SITE),
            _NAME: name,
            _ACTION: action,
            _MARK: str(self._mark),
        }

    @property
    def struck(self) -> bool:
        """Whether a process was there."""
        return self._mark.exists()

    def wait(self, seconds: float = 30) -> int:
        """Wait until a process was there; return its id. Raises AssertionError where none comes in time."""
        deadline = time.monotonic() + seconds
        while not (self.struck and (pid := self._mark.read_text())):
            assert time.monotonic() < deadline, f"{self.name} was not met in {seconds} s: {self.moment}"
            time.sleep(0.02)
        return int(pid)


def install() -> None:
    """Arm the point that the environment names, in this process. Whatever is wrong ends the process."""
    point = POINTS[os.environ[_NAME]]
    number, mark = _SIGNALS[os.environ[_ACTION]], os.environ[_MARK]
    process = os.environ[_NAME].partition(".")[0]
    if not any(process in argument for argument in sys.orig_argv):
        raise ValueError(f"{os.environ[_NAME]} is no point of {sys.orig_argv}")

    def strike() -> None:
        try:
            left = os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        os.write(left, str(os.getpid()).encode())
        os.close(left)
        os.kill(os.getpid(), number)

    sys.meta_path.insert(0, _Finder(point, strike))


def arm(point: Point, module: ModuleType, strike: Callable[[], None]) -> None:
    """Call `strike` at a point of its module. Raises AttributeError or KeyError where it has none such."""
    uses = 0

    def used() -> None:
        nonlocal uses
        uses += 1
        if uses == point.nth:
            strike()

    if point.statement:
        module._SQL = _Watched(module._SQL, point.statement, used)  # type: ignore[attr-defined]
        return
    path, _, name = point.function.rpartition(".")
    owner = getattr(module, path) if path else module
    function = vars(owner)[name]

    @wraps(function)
    def armed(*arguments: Any, **named: Any) -> Any:
        if point.before:
            used()
        returned = function(*arguments, **named)
        if not point.before and (returned or not point.if_any):
            used()
        return returned

    setattr(owner, name, armed)


class _Watched(dict[str, str]):
    """Statements of a module, of which one tells when it is looked up."""

    def __init__(self, statements: dict[str, str], name: str, used: Callable[[], None]) -> None:
        super().__init__(statements)
        self[name]
        self._name = name
        self._used = used

    def __getitem__(self, name: str) -> str:
        if name == getattr(self, "_name", None):
            self._used()
        return super().__getitem__(name)


class _Finder(MetaPathFinder):
    """Arms a point when its module is imported."""

    def __init__(self, point: Point, strike: Callable[[], None]) -> None:
        self._point = point
        self._strike = strike

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the module as Python does, with a loader that arms it."""
        spec = PathFinder.find_spec(name, path) if name == self._point.module else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin, self._point, self._strike)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, origin: str, point: Point, strike: Callable[[], None]) -> None:
        super().__init__(name, origin)
        self._point = point
        self._strike = strike

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        try:
            arm(self._point, module, self._strike)
        except (AttributeError, KeyError) as error:
            # The process must not go on as if it were armed, whoever catches what here.
            sys.stderr.write(f"failpoint: {self._point} is not in the code: {error!r}\n")
            sys.stderr.flush()
            os._exit(_WRONG)
