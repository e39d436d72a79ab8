"""Asks gateways over HTTP: one question after the other, or by many clients at once."""

import http.client
import itertools
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.checkout import ROOT
from deploy.local.traffic import org
from tests.benchmarks.place import Place
from tests.support.fleet import Fleet, Process

CLIENTS = 16
SECONDS = 15
RELEASE_BEFORE = "2b2f4963395e27d178d72ecf32c6a07c356bf861"

_ACTOR = {
    "X-Actor-Subject": "bench",
    "X-Actor-Roles": "admin",
    "X-Actor-Orgs": ",".join(org(number) for number in range(300)),
}


@dataclass(frozen=True)
class Question:
    """One GET. org_id: None for all organisations."""

    org_id: str | None
    view: str
    query: str

    @property
    def path(self) -> str:
        """The path with its query."""
        whose = "" if self.org_id is None else f"/orgs/{self.org_id}"
        return f"/analytics/v1{whose}/{self.view}?{self.query}"


class Client:
    """Asks a gateway over one connection."""

    def __init__(self, gateway: Process) -> None:
        address = urlsplit(gateway.url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)

    def ask(self, question: Question) -> float:
        """Return the seconds until the whole answer is there. Raises AssertionError unless it is a 200."""
        began = time.perf_counter()
        self._connection.request("GET", question.path, headers=_ACTOR)
        answer = self._connection.getresponse()
        body = answer.read()
        seconds = time.perf_counter() - began
        assert answer.status == 200, f"{question.path}: {body[:500]!r}"
        return seconds

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def medians(gateway: Process, questions: list[Question], rounds: int) -> list[float]:
    """Return each question's median in ms. They are asked in turns, so that noise hits all alike."""
    client = Client(gateway)
    for question in questions:
        client.ask(question)
    seconds = [[client.ask(question) for question in questions] for _ in range(rounds)]
    client.close()
    return [statistics.median(each) * 1000 for each in zip(*seconds, strict=True)]


def load_of(gateway: Process, questions: list[Question]) -> tuple[float, float, int]:
    """Return answers/s, their 99th percentile in ms, and how many requests were refused as too many.

    Many clients ask all questions in turn.
    """
    seconds: list[float] = []
    refused = 0
    until = time.monotonic() + SECONDS

    def ask(number: int) -> None:
        nonlocal refused
        client = Client(gateway)
        for question in itertools.islice(itertools.cycle(questions), number, None):
            if time.monotonic() >= until:
                break
            try:
                seconds.append(client.ask(question))
            except AssertionError:
                refused += 1
        client.close()

    began = time.monotonic()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(seconds) / (time.monotonic() - began)
    return rate, statistics.quantiles(seconds, n=100)[98] * 1000, refused


def release_before(place: Place, folder: Path) -> Process | None:
    """Start the gateway of the release before on the same database; None where its code is not at hand."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", RELEASE_BEFORE], capture_output=True, check=False
    )
    if archive.returncode:
        return None
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    [gateway] = Fleet(place.fleet.environ, folder, folder).start_ready("gateway")
    return gateway
