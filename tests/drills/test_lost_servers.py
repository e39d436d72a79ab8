"""Drill: every server in turn is killed, frozen and brought back while events flow and people read.

Afterwards the invariants hold: every confirmed event is counted once in every view, nothing innocent is
a dead letter, every export that says succeeded is whole, no answer was wrong, and each answer came within
its deadline. The processes are never restarted: they recover by themselves.
"""

import signal
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pika.exceptions
import urllib3

from deploy.local.api import ADMIN, Api, wait_until
from deploy.local.observer import Observer
from deploy.local.servers import Server
from deploy.local.stack import LocalStack
from deploy.local.traffic import Event, Expected, Publisher, Router, encode, org
from tests.support.fleet import Fleet, Process

# The gateway's own limits: 2 s for a connection, 7 s for a statement, twice for one that was dead.
_ANSWER_DEADLINE_SECONDS = 20
_RECOVERY_SECONDS = 30


class Producer(threading.Thread):
    """Publishes until the stop. Messages whose confirmation was lost are published again."""

    def __init__(self, rabbitmq_url: str, router: Router) -> None:
        super().__init__()
        self._rabbitmq_url = rabbitmq_url
        self._router = router
        self.confirmed: list[Event] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            events = self._router.events(200)
            while not self._publish(events):
                time.sleep(0.5)
            self.stopping.wait(0.2)

    def _publish(self, events: list[Event]) -> bool:
        try:
            with Publisher(self._rabbitmq_url, "analytics.usage", confirm=True) as out:
                out.publish([encode(event) for event in events[:100]] + [encode(events[100:])])
        except (pika.exceptions.AMQPError, OSError):
            return False
        self.confirmed += events
        return True


class Reader(threading.Thread):
    """Asks for usage all the time and notes each answer's status and how long it took."""

    def __init__(self, gateway_url: str, path: str) -> None:
        super().__init__()
        self._url = gateway_url + path
        self.statuses: Counter[int] = Counter()
        self.slowest = 0.0
        self.stopping = threading.Event()

    def run(self) -> None:
        http = urllib3.PoolManager(retries=False, timeout=60)
        while not self.stopping.wait(0.1):
            began = time.monotonic()
            self.statuses[http.request("GET", self._url, headers=ADMIN).status] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)


def test_every_server_is_lost_in_turn_and_nothing_else_is(own_stack: LocalStack, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    start, end = now - timedelta(hours=3), now
    settings = own_stack.settings
    fleet = Fleet(settings, tmp_path)
    try:
        processes = fleet.start_ready("gateway", "ingestor", "ingestor", "rollup_worker", "export_worker")
        gateway = processes[0]
        producer = Producer(settings["RABBITMQ_URL"], Router(seed=50, start=start, end=end))
        window = f"start={start:%Y-%m-%dT%H:%M:%SZ}&end={end:%Y-%m-%dT%H:%M:%SZ}"
        reader = Reader(gateway.url, f"/analytics/v1/orgs/{org(0)}/usage?{window}")
        producer.start()
        reader.start()
        try:
            for name in ("Redis", "PostgreSQL", "RabbitMQ", "S3"):
                server = own_stack.servers[name]
                assert isinstance(server, Server)
                server.kill()
                time.sleep(2)
                server.start_again()
                _wait_until_all_ready(processes, after=f"{name} was killed")
                server.signal_server(signal.SIGSTOP)
                time.sleep(4)
                server.signal_server(signal.SIGCONT)
                _wait_until_all_ready(processes, after=f"{name} was frozen")
        finally:
            producer.stopping.set()
            reader.stopping.set()
            producer.join()
            reader.join()
        observer = Observer(
            settings["DATABASE_URL"], settings["RABBITMQ_URL"], "analytics.usage.v1", "analytics.usage.v1.dlq"
        )
        expected = Expected(producer.confirmed)
        observer.wait_until_settled(stored=len(expected))
        observer.assert_equal(expected)
        assert observer.dead_letters() == []
        observer.assert_api_equal(Api(gateway.url), expected, start, end)
        assert reader.statuses.keys() <= {200, 503}, reader.statuses
        assert reader.statuses[200] > reader.statuses[503], reader.statuses
        assert reader.slowest < _ANSWER_DEADLINE_SECONDS
        observer.close()
        assert [process.popen.poll() for process in processes] == [None] * len(processes)
    finally:
        fleet.close()


def _wait_until_all_ready(processes: list[Process], *, after: str) -> None:
    for process in processes:
        wait_until(process.ready, seconds=_RECOVERY_SECONDS, what=f"{process.name} ready after {after}")
