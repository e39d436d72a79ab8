"""The upgrade from the release before, with data and under load, and the way back."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import urllib3

from deploy.local.api import Api, wait_until
from deploy.local.checkout import ROOT
from deploy.local.observer import Observer
from deploy.local.traffic import Event, Expected, Publisher, Router, encode
from tests.support.fleet import Fleet, Process
from tests.support.places import TestBroker
from tests.support.release_before import migrate

NAMES = ("rollup_worker", "ingestor", "gateway")
NOW = datetime.now(UTC)
WINDOW = {
    "start": f"{NOW - timedelta(days=4):%Y-%m-%dT00:00:00Z}",
    "end": f"{NOW + timedelta(days=1):%Y-%m-%dT00:00:00Z}",
}


class Load:
    """Publishes events at a steady rate, and asks the gateways, until the stop."""

    def __init__(self, broker: TestBroker) -> None:
        self._broker = broker
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self.published: list[Event] = []
        self.gateways: list[Api] = []
        self.answers = 0
        self.failures: list[str] = []

    def start(self) -> None:
        for work in (self._publish, self._ask):
            self._threads.append(threading.Thread(target=work))
            self._threads[-1].start()

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, events: int = 500) -> None:
        """Wait until more events are published and asked for."""
        wanted = len(self.published) + events
        wait_until(lambda: len(self.published) >= wanted, seconds=60, what="events published")

    def _publish(self) -> None:
        router = Router(seed=1, start=NOW - timedelta(days=3), end=NOW, error_share=0.2)
        with Publisher(self._broker.url, self._broker.exchange) as out:
            while not self._done.wait(0.05):
                events = router.events(20)
                out.publish([encode(event) for event in events])
                self.published += events

    def _ask(self) -> None:
        while not self._done.wait(0.1):
            for api in list(self.gateways):
                for org_id in sorted({event["orgId"] for event in self.published}):
                    try:
                        for view in ("usage", "reliability"):
                            api.get(f"/orgs/{org_id}/{view}", **WINDOW)
                        self.answers += 2
                    except (AssertionError, urllib3.exceptions.HTTPError) as error:
                        self.failures.append(str(error)[:300])


@dataclass
class Upgrade:
    """Both releases on one database, and what is asked of them all the while."""

    before: Fleet
    after: Fleet
    load: Load
    observer: Observer
    owner_url: str

    def command(self, *arguments: str) -> str:
        """Run a command of this release's rollup worker over the days of the load; return what it said."""
        window = (
            "--from",
            f"{NOW - timedelta(days=4):%Y-%m-%d}",
            "--to",
            f"{NOW + timedelta(days=1):%Y-%m-%d}",
        )
        done = subprocess.run(
            [sys.executable, "-m", "rollup_worker", *arguments, *window],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "DATABASE_URL": self.after.environ["ROLLUP_WORKER_DATABASE_URL"],
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def replace(self, old: list[Process], fleet: Fleet) -> list[Process]:
        """Start each process of a fleet beside the old one, then stop those."""
        new = [fleet.start(name).wait_ready() for name in NAMES]
        gateway = next(process for process in new if process.name == "gateway")
        self.load.gateways.append(Api(gateway.url))
        self.load.wait_for_more()
        self.load.gateways[:] = self.load.gateways[-1:]
        for process in old:
            assert process.stop() == 0, process.log_tail()
        self.load.wait_for_more()
        return new


@pytest.fixture
def upgrade(
    environ_before: dict[str, str], release_before: Path, broker: TestBroker, tmp_path: Path
) -> Iterator[Upgrade]:
    """Nothing runs yet; whatever still does at the end is killed."""
    observer = Observer(environ_before["DATABASE_URL"], broker.url, broker.queue, broker.dead_letter_queue)
    made = Upgrade(
        Fleet(environ_before, tmp_path, release_before),
        Fleet(environ_before, tmp_path),
        Load(broker),
        observer,
        environ_before["DATABASE_URL"],
    )
    yield made
    made.load.stop()
    made.before.close()
    made.after.close()
    observer.close()


@pytest.mark.timeout(600)
def test_an_upgrade_under_load_and_the_way_back_lose_nothing(upgrade: Upgrade) -> None:
    load, observer = upgrade.load, upgrade.observer
    old = upgrade.before.start_ready(*NAMES)
    load.gateways.append(Api(old[-1].url))
    load.start()
    load.wait_for_more()

    # Expand: the old processes go on, on the new schema.
    migrate(upgrade.owner_url, ROOT)
    load.wait_for_more()
    assert [process.popen.poll() for process in old] == [None] * len(NAMES)

    # Replace them; what they added beside this release's is declared, and back, and forth again.
    new = upgrade.replace(old, upgrade.after)
    kept = observer.rows("SELECT name, complete_since FROM analytics.rollup_dimensions WHERE groupable")
    assert {name for name, _ in kept} == {"client", "actor", "apiKey", "provider", "operation"}
    assert all(since is not None for _, since in kept)
    back = upgrade.replace(new, upgrade.before)
    new = upgrade.replace(back, upgrade.after)
    load.stop()

    expected = Expected(load.published)
    observer.wait_until_settled(stored=len(load.published))
    observer.assert_equal(expected)
    observer.assert_hours_equal(load.published)
    assert observer.dead_letter_count() == 0
    observer.assert_api_equal(load.gateways[0], expected, NOW - timedelta(days=4), NOW + timedelta(days=1))
    assert load.failures == []
    assert load.answers > 20

    # What the old workers could not add is made from raw events, and all of it is proven.
    assert "no difference" in upgrade.command("verify")
    upgrade.command("rebuild")
    assert "no difference" in upgrade.command("verify")
    assert (
        observer.rows("SELECT name FROM analytics.rollup_dimensions WHERE complete_since IS NOT NULL") == []
    )
    clients = "SELECT sum(invocations) FROM analytics.rollups WHERE dimension = 'client' AND grain = 60"
    assert observer.rows(clients) == [(sum("clientId" in event for event in load.published),)]
    observer.assert_equal(expected)
