"""The node that leads the queues is lost while events flow. `make drills` has other ways, and more load."""

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree

import pytest

from deploy.local import machine
from deploy.local.observer import Observer
from deploy.local.traffic import Expected, Publisher, Router, encode
from tests.support.broker_cluster import NODES, BrokerCluster
from tests.support.fleet import Fleet
from tests.support.places import TestBroker, TestDatabase

EVENTS = 600


@pytest.fixture
def cluster() -> Iterator[BrokerCluster]:
    """Three nodes of RabbitMQ."""
    home = machine.temporary_home("analytics-brokers-")
    with BrokerCluster(home / "brokers") as started:
        yield started
    rmtree(home, ignore_errors=True)


def test_every_confirmed_event_counts_though_the_leading_node_is_killed(
    cluster: BrokerCluster, environ: dict[str, str], database: TestDatabase, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    events = Router(seed=1, start=now - timedelta(hours=1), end=now).events(EVENTS)
    names = ("nodes.events", "nodes.queue", "nodes.dlx", "nodes.dlq")
    half_is_confirmed = threading.Event()
    with closing(Fleet(environ | TestBroker(cluster.url, *names).settings, tmp_path)) as fleet:
        processes = fleet.start_ready("ingestor", "rollup_worker")
        leader = cluster.leader("nodes.queue")
        left = cluster.urls[(leader + 1) % NODES]

        def publish() -> None:
            with Publisher(left, "nodes.events", confirm=True) as out:
                out.publish(encode(event) for event in events[: EVENTS // 2])
                half_is_confirmed.set()
                out.publish(encode(event) for event in events[EVENTS // 2 :])

        producer = threading.Thread(target=publish)
        producer.start()
        assert half_is_confirmed.wait(60)
        cluster.servers[leader].kill()
        producer.join(60)
        assert not producer.is_alive()
        with closing(Observer(database.owner_url, left, "nodes.queue", "nodes.dlq")) as observer:
            observer.wait_until_settled(stored=EVENTS)
            observer.assert_equal(Expected(events))
            assert observer.dead_letters() == []
        assert [process.popen.poll() for process in processes] == [None, None]
