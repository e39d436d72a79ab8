"""The upgrade from the release before, under load: its processes go on while the schema changes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deploy.local.api import wait_until
from deploy.local.checkout import ROOT
from deploy.local.stack import LocalStack, migrate
from tests.drills.drill import Drill, Outcome
from tests.drills.history import History
from tests.drills.scene import SLOTS, Scene
from tests.support import release_before

_LOAD_SECONDS = 3.0
_TEMPLATE = "drill_template_before"


def upgrade(stack: LocalStack, folder: Path, write_line: Callable[[str], None]) -> Outcome:
    """Upgrade a fleet of the release before; a migration is killed on the way. Return what came of it."""
    write_line("the release before is upgraded under load")
    folder.mkdir()
    before = folder / "before"
    before.mkdir()
    release_before.unpack(before)
    release_before.migrate(stack.create_database(_TEMPLATE), before)
    stack.make_template(_TEMPLATE)
    history = History(folder / "history.jsonl")
    try:
        with Scene(stack, folder, "upgrade", before, template=_TEMPLATE) as scene:
            drill = Drill(scene, history, write_line)
            drill.load.start()
            try:
                time.sleep(_LOAD_SECONDS)
                killed = _kill_a_migration(scene)
                migrate(scene.database_url)
                time.sleep(_LOAD_SECONDS)
                for slot in SLOTS:
                    _replace(scene, slot)
                    time.sleep(1)
                return drill.outcome("upgrade", f"{killed}, all replaced", "I1 to I9")
            finally:
                drill.load.stop()
    finally:
        history.close()


def _kill_a_migration(scene: Scene) -> str:
    """Kill the command once it has applied a migration or two, and say how many."""
    with scene.owner() as owner, owner.cursor() as cur:

        def applied() -> int:
            cur.execute("SELECT count(*) FROM analytics.schema_migrations")
            [(count,)] = cur.fetchall()
            return int(count)

        before = applied()
        command = subprocess.Popen(
            [sys.executable, "-m", "shared.migrate"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "DATABASE_URL": scene.database_url},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: applied() > before, seconds=30, what="a migration", every_seconds=0.01)
        finally:
            command.kill()
            command.wait(20)
        return f"migration killed after {applied() - before}"


def _replace(scene: Scene, slot: str) -> None:
    scene.down.add(slot)
    code = scene.processes[slot].stop()
    assert code == 0, f"{slot} of the release before ended with {code}"
    scene.launch(slot, ROOT)
    scene.processes[slot].wait_ready()
