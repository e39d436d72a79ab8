"""Drills of a Citus cluster: a node is killed and comes back, and a third one takes shards, under load."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tests.drills.lost_nodes import NodesLost, strike
from tests.drills.scene import Scene
from tests.support.citus_cluster import CitusStack

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
    with Scene(stack, folder, "citus") as scene:
        return strike(scene, write_line, {name: partial(step, stack, scene) for name, step in STEPS.items()})
