"""Drills of a Citus cluster: a node is killed and comes back, and a third one takes shards, under load."""

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from tests.drills.drill import Drill
from tests.drills.history import History
from tests.drills.lost_nodes import NodesLost, pauses
from tests.drills.scene import Scene
from tests.support.citus_cluster import CitusStack

_QUIET_SECONDS = 3.0
_DEAD_SECONDS = 5.0

_MOVE = "SELECT rebalance_table_shards(rebalance_strategy => 'by_shard_count')"
_HELD = """
    SELECT count(DISTINCT colocation_id) > 0 FROM citus_shards WHERE nodeport = {}
    AND table_name = 'analytics.usage_events'::regclass"""


def _kill_node(stack: CitusStack, scene: Scene) -> None:
    node = stack.node("Citus node 1")
    node.kill()
    time.sleep(_DEAD_SECONDS)
    node.start_again()


def _add_node(stack: CitusStack, scene: Scene) -> None:
    url = stack.add_node(scene.database_url)
    with scene.observer() as observer:
        observer.rows(_MOVE)
        [(moved,)] = observer.rows(_HELD.format(urlsplit(url).port))
    assert moved, "the new node has no shard"


STEPS: dict[str, Callable[[CitusStack, Scene], None]] = {
    "a node killed": _kill_node,
    "a node added, and shards moved to it": _add_node,
}


def change_nodes(stack: CitusStack, folder: Path, write_line: Callable[[str], None]) -> NodesLost:
    """Do each step under load. stack: one of its own, whose drills' template is made."""
    history = History(folder / "history.jsonl")
    spans: list[tuple[str, float, float]] = []
    with Scene(stack, folder, "citus") as scene:
        drill = Drill(scene, history, write_line)
        before = {slot: process.popen.pid for slot, process in scene.processes.items()}
        drill.load.start()
        try:
            time.sleep(_QUIET_SECONDS)
            for name, step in STEPS.items():
                write_line(f"    {name}")
                began = time.time()
                step(stack, scene)
                write_line(f"    it took {time.time() - began:.1f} s")
                time.sleep(_QUIET_SECONDS)
                spans.append((name, began, time.time()))
            drill.settle("the change of nodes")
            return NodesLost(
                list(pauses(scene, history, spans)),
                drill.verdict.findings,
                drill.verdict.acknowledged,
                [slot for slot, pid in before.items() if scene.processes[slot].popen.pid != pid],
            )
        finally:
            drill.load.stop()
            history.close()
