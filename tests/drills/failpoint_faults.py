"""Kills at named moments inside the processes: tests/support/failpoints.py has the names."""

from functools import partial

from tests.drills.fault import Fault, MetNothing
from tests.drills.process_faults import launch, swap
from tests.drills.scene import Scene
from tests.support.failpoints import Failpoint

_PATIENCE_SECONDS = 10.0

_POINTS = {
    "ingestor.stored": "I1 I3",
    "ingestor.committed": "I1 I3",
    "ingestor.dead_letter_confirmed": "I1 I3",
    "rollup_worker.hours_added": "I2",
    "rollup_worker.added": "I2",
    "rollup_worker.committed": "I2",
    "rollup_worker.percentiles_kept": "I2",
    "export_worker.claimed": "I4 I5",
    "export_worker.object_stored": "I4 I5",
    "gateway.committed": "I7 I9",
}
"""Those that a drill's load meets within seconds, with what each can break."""


def _arm(slot: str, point: str, scene: Scene) -> None:
    """Start the process again so that it kills itself at the moment, and wait for that."""
    failpoint = Failpoint(point, scene.folder)
    swap(slot, scene)
    scene.launch(slot, None, **failpoint.environ)
    scene.down.add(slot)  # nobody else shall start it again
    try:
        failpoint.wait(_PATIENCE_SECONDS)
    except AssertionError as error:
        raise MetNothing(str(error)) from None


def _disarm(slot: str, scene: Scene) -> None:
    scene.processes[slot].kill()  # it may not have met the moment; and gunicorn goes on without its worker
    launch(slot, scene)


def failpoint_faults() -> list[Fault]:
    """Return one for each moment."""
    return [
        Fault(
            f"{point}_kill",
            partial(_arm, point.partition(".")[0], point),
            partial(_disarm, point.partition(".")[0]),
            can_break,
            (0.1, 1.0),
            1,
        )
        for point, can_break in _POINTS.items()
    ]
