"""A node of RabbitMQ is lost under load, and nothing else. `make drills` has other ways."""

from copy import copy
from pathlib import Path
from shutil import rmtree

from deploy.local import machine
from deploy.local.stack import LocalStack
from tests.drills.failover import MAX_PAUSE_SECONDS
from tests.drills.lost_nodes import lose_nodes
from tests.support.broker_cluster import BrokerCluster
from tests.support.shared_stack import TEMPLATE

KILLED = "the leader's node killed"


def test_the_queues_go_on_on_the_nodes_that_are_left(stack: LocalStack, tmp_path: Path) -> None:
    lines: list[str] = []
    home = machine.temporary_home("analytics-drill-")
    with BrokerCluster(home / "brokers") as cluster:
        servers = copy(stack)
        servers.settings = stack.settings | {"RABBITMQ_URL": cluster.urls[0]}
        came = lose_nodes(servers, tmp_path, lines.append, cluster, KILLED, template=TEMPLATE)
    rmtree(home, ignore_errors=True)
    assert came.findings == [], "\n".join([*lines, str(came)])
    assert came.restarted == []
    assert came.confirmed > 100
    [pause] = came.pauses
    assert max(pause.confirm_seconds, pause.commit_seconds) < MAX_PAUSE_SECONDS
