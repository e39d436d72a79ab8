"""A node of RabbitMQ is lost under load, and nothing else. `make drills` freezes and restarts nodes too."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local import machine
from deploy.local.stack import LocalStack
from tests.drills.failover import MAX_PAUSE_SECONDS
from tests.drills.lost_nodes import lose_nodes
from tests.drills.scene import TEMPLATE
from tests.support.broker_cluster import BrokerCluster


@pytest.fixture
def cluster() -> Iterator[BrokerCluster]:
    """A cluster of RabbitMQ of the drill's own."""
    home = machine.temporary_home("analytics-drill-")
    with ExitStack() as opened:
        opened.callback(shutil.rmtree, home, ignore_errors=True)
        yield opened.enter_context(BrokerCluster(home / "brokers"))


def test_the_leader_of_the_queues_is_killed_and_no_confirmed_event_is_lost(
    cluster: BrokerCluster, tmp_path: Path
) -> None:
    lines: list[str] = []
    home = machine.temporary_home("analytics-drill-")
    stack = LocalStack(home, environ={"RABBITMQ_URL": cluster.urls[0]})
    try:
        stack.start().prepare_database(TEMPLATE)
        stack.make_template(TEMPLATE)
        came = lose_nodes(stack, tmp_path, lines.append, cluster, "the leader's node killed")
    finally:
        stack.stop()
        shutil.rmtree(home, ignore_errors=True)
    assert came.findings == [], "\n".join([*lines, str(came)])
    assert came.restarted == []
    assert came.confirmed > 100
    assert came.pauses[0].confirm_seconds < MAX_PAUSE_SECONDS
    assert came.pauses[0].commit_seconds < MAX_PAUSE_SECONDS
