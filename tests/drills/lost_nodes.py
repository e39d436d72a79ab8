"""Drills of RabbitMQ's nodes: the leader of the queues killed, frozen, each restarted in turn, under load."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from deploy.local.stack import LocalStack
from tests.drills.drill import Drill
from tests.drills.history import History, operations
from tests.drills.scene import Scene
from tests.drills.verdict import Finding
from tests.support.broker_cluster import NODES, BrokerCluster

_QUIET_SECONDS = 2.0
_DEAD_SECONDS = 5.0
_FROZEN_SECONDS = 35.0
"""Longer than the ingestor takes to leave a silent host."""

_COMMITS = """
    SELECT extract(epoch FROM committed_at)::float8 FROM analytics.ingestion_batches
    WHERE committed_at BETWEEN to_timestamp({}) AND to_timestamp({}) ORDER BY 1"""


@dataclass(frozen=True)
class Pause:
    """The longest times without a confirmation and without a commit, in seconds, while something happened."""

    name: str
    confirm_seconds: float
    commit_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.name}: no confirmation for {self.confirm_seconds:.1f} s,"
            f" no commit for {self.commit_seconds:.1f} s"
        )


@dataclass(frozen=True)
class NodesLost:
    """What came of it. restarted: processes of ours that had ended."""

    pauses: list[Pause]
    findings: list[Finding]
    confirmed: int
    restarted: list[str]

    def __str__(self) -> str:
        wrong = "; ".join(str(each) for each in self.findings) or "all held"
        return "; ".join(
            [*(str(each) for each in self.pauses), f"{self.confirmed:,} events confirmed", wrong]
        )


class ClusterScene(Scene):
    """A scene whose processes know every node. rabbitmq_url is the node that is published to."""

    def __init__(self, stack: LocalStack, cluster: BrokerCluster, folder: Path) -> None:
        super().__init__(stack, folder, "cluster")
        self.fleet.environ["RABBITMQ_URL"] = cluster.url
        self.queues = [self.fleet.environ[name] for name in ("RABBITMQ_QUEUE", "RABBITMQ_DEAD_LETTER_QUEUE")]


Step = Callable[[ClusterScene, BrokerCluster], None]


def _kill_leader(scene: ClusterScene, cluster: BrokerCluster) -> None:
    struck = _publish_elsewhere(scene, cluster, cluster.leader(scene.queues[0]))
    cluster.servers[struck].kill()
    time.sleep(_DEAD_SECONDS)
    cluster.servers[struck].start_again()


def _freeze_leader(scene: ClusterScene, cluster: BrokerCluster) -> None:
    struck = _publish_elsewhere(scene, cluster, cluster.leader(scene.queues[0]))
    cluster.servers[struck].signal_server(signal.SIGSTOP)
    time.sleep(_FROZEN_SECONDS)
    cluster.servers[struck].signal_server(signal.SIGCONT)


def _restart_each(scene: ClusterScene, cluster: BrokerCluster) -> None:
    for number in range(NODES):
        _publish_elsewhere(scene, cluster, number)
        cluster.restart(number)
        cluster.wait_whole(scene.queues)


def _publish_elsewhere(scene: ClusterScene, cluster: BrokerCluster, struck: int) -> int:
    scene.rabbitmq_url = cluster.urls[(struck + 1) % NODES]
    time.sleep(_QUIET_SECONDS)
    return struck


STEPS: dict[str, Step] = {
    "the leader's node killed": _kill_leader,
    "the leader's node frozen": _freeze_leader,
    "each node restarted": _restart_each,
}


def lose_nodes(
    stack: LocalStack, folder: Path, write_line: Callable[[str], None], cluster: BrokerCluster, *names: str
) -> NodesLost:
    """Do the named steps under load. stack: one without RabbitMQ, which uses the cluster's first node."""
    with ClusterScene(stack, cluster, folder) as scene:

        def lose(name: str) -> None:
            STEPS[name](scene, cluster)
            cluster.wait_whole(scene.queues)

        return strike(scene, write_line, {name: partial(lose, name) for name in names})


def strike(
    scene: Scene, write_line: Callable[[str], None], steps: Mapping[str, Callable[[], None]]
) -> NodesLost:
    """Do each step under load, with quiet before and after it, and judge."""
    history = History(scene.folder / "history.jsonl")
    spans: list[tuple[str, float, float]] = []
    drill = Drill(scene, history, write_line)
    before = {slot: process.popen.pid for slot, process in scene.processes.items()}
    drill.load.start()
    try:
        time.sleep(_QUIET_SECONDS)
        for name, step in steps.items():
            write_line(f"    {name}")
            began = time.time()
            step()
            time.sleep(_QUIET_SECONDS)
            spans.append((name, began, time.time()))
        drill.settle("the loss of nodes")
        return NodesLost(
            list(_pauses(scene, history, spans)),
            drill.verdict.findings,
            drill.verdict.acknowledged,
            [slot for slot, pid in before.items() if scene.processes[slot].popen.pid != pid],
        )
    finally:
        drill.load.stop()
        history.close()


def _pauses(scene: Scene, history: History, spans: list[tuple[str, float, float]]) -> Iterator[Pause]:
    ends = [end for _, end in operations(history.records, "publish") if end is not None]
    confirmed = sorted(end["utc"] for end in ends if end["state"] == "ok")
    for name, began, ended in spans:
        with scene.observer() as observer:
            commits = [at for (at,) in observer.rows(_COMMITS.format(began, ended))]
        confirms = [at for at in confirmed if began <= at <= ended]
        yield Pause(name, _longest(confirms, began, ended), _longest(commits, began, ended))


def _longest(instants: list[float], began: float, ended: float) -> float:
    return max(after - before for before, after in pairwise([began, *instants, ended]))
