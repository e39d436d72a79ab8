"""What is no failure and may break as much: a flood, a migration, rollups made again."""

import os
import subprocess
import sys
from contextlib import suppress
from functools import partial

from deploy.local.checkout import ROOT
from tests.drills.fault import Fault, MetNothing
from tests.drills.scene import Scene

_PATIENCE_SECONDS = 60
_FLOOD = 5


def _flood(factor: int, scene: Scene) -> None:
    scene.pace = factor


def _command(scene: Scene, url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _begin_work(name: str, arguments: tuple[str, ...], scene: Scene) -> None:
    if name == "rollups.backfill":
        with scene.owner() as owner, owner.cursor() as cur:
            cur.execute(
                "UPDATE analytics.rollup_dimensions SET complete_since = date_trunc('day', now())"
                " + interval '1 day' WHERE name = 'client'"
            )
    if name == "rollups.rebuild":
        arguments += ("--from", f"{scene.start:%F}", "--to", f"{scene.end:%F}")
    url = scene.environ["DATABASE_URL" if name == "schema.migrate" else "ROLLUP_WORKER_DATABASE_URL"]
    scene.commands[name] = [
        _command(scene, url, *arguments) for _ in range(2 if name == "schema.migrate" else 1)
    ]


def _end_work(name: str, scene: Scene) -> None:
    """Wait for the commands. What fails while something else is down is no fault of theirs, and is said."""
    said = []
    for command in scene.commands.pop(name, []):
        output = ""
        with suppress(subprocess.TimeoutExpired):
            output, _ = command.communicate(timeout=_PATIENCE_SECONDS)
        if command.poll() is None:
            command.kill()
            output, _ = command.communicate()
        if command.returncode:
            said.append(f"ended with {command.returncode}: {' '.join(output.split())[-150:]}")
    if said:
        raise MetNothing("; ".join(said))


def work_faults() -> list[Fault]:
    """Return them all."""
    works = {
        "rollups.rebuild": ("rollup_worker", "rebuild"),
        "rollups.backfill": ("rollup_worker", "backfill", "--dimension", "client"),
        "schema.migrate": ("shared.migrate",),
    }
    return [
        Fault("load.flood", partial(_flood, _FLOOD), partial(_flood, 1), "I1 I2 I8", (4, 10)),
        *(
            Fault(name, partial(_begin_work, name, command), partial(_end_work, name), "I1 I2 I7", (1, 2), 1)
            for name, command in works.items()
        ),
    ]
