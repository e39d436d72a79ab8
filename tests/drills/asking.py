"""Who asks the gateway in a drill, each noting in the history what was asked and answered."""

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlencode

import urllib3

from deploy.local.api import ADMIN
from deploy.local.traffic import encode, org
from tests.drills.history import History
from tests.drills.publishing import Producer
from tests.drills.scene import CANARY, ORGS, Scene
from tests.drills.worker import Worker

_PATIENCE_SECONDS = 60
_MARKER = "drill/marker"
_RISING = ("_total", "_count", "_bucket")
_MARKED = 0
"""The organisation whose clients look for marked events."""


TENANT = {"X-Actor-Subject": "tenant", "X-Actor-Roles": "analytics:usage:read", "X-Actor-Orgs": org(0)}


class Asker(Worker):
    """Sends requests to the gateway, each with an id of its own, and notes the answers."""

    def __init__(self, name: str, scene: Scene, history: History, every_seconds: float) -> None:
        super().__init__(name, scene, history, every_seconds)
        self._http = urllib3.PoolManager(retries=False, timeout=_PATIENCE_SECONDS)
        self._numbers = itertools.count(1)

    def ask(
        self,
        org_id: str,
        path: str,
        actor: Mapping[str, str] = ADMIN,
        *,
        forbidden: bool = False,
        method: str = "GET",
        **options: Any,
    ) -> urllib3.BaseHTTPResponse | None:
        """Ask below an organisation; None when no answer came."""
        request_id = f"{self.name}-{next(self._numbers)}"
        full = f"/analytics/v1/orgs/{org_id}/{path}"
        number = self.history.invoke(
            "read",
            self.name,
            request_id=request_id,
            org_id=org_id,
            path=full,
            forbidden=forbidden,
            audited=actor is ADMIN,
        )
        try:
            answer = self._http.request(
                method,
                self.scene.gateway_url + full,
                headers={**actor, "X-Request-ID": request_id, "Content-Type": "application/json"},
                redirect=False,
                **options,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self.history.end("read", "unknown", number, why=type(error).__name__)
            return None
        shown = _invocations(answer) if path.startswith("usage?") and "modelId" not in path else {}
        foreign = org_id != org(ORGS - 1) and CANARY.encode() in answer.data
        state: Literal["ok", "fail"] = "ok" if answer.status < 400 else "fail"
        self.history.end("read", state, number, status=answer.status, foreign=foreign, **shown)
        return answer


def _invocations(answer: urllib3.BaseHTTPResponse) -> dict[str, int]:
    return {"invocations": answer.json()["totals"]["invocations"]} if answer.status == 200 else {}


def usage_path(scene: Scene, granularity: str) -> str:
    """Return the path and query of the usage over the whole window of the events."""
    window = {"start": f"{scene.start:%FT%TZ}", "end": f"{scene.end:%FT%TZ}", "granularity": granularity}
    return f"usage?{urlencode(window)}"


class Reader(Asker):
    """Asks for usage as the administrator, as an organisation's own actor, and as another's."""

    def __init__(self, scene: Scene, history: History) -> None:
        super().__init__("reader", scene, history, every_seconds=0.2)

    def once(self) -> None:
        path = usage_path(self.scene, "day")
        for number in range(ORGS):
            self.ask(org(number), path)
        self.ask(org(0), path, TENANT)
        self.ask(org(0), "freshness", TENANT)  # the one answer that Redis has a part in
        self.ask(org(1), path, TENANT, forbidden=True)


class Exporter(Asker):
    """Asks for exports, one after another, and fetches some of the files as a client does.

    Whether all of them end is looked for at the end.
    """

    def __init__(self, scene: Scene, history: History) -> None:
        super().__init__("exporter", scene, history, every_seconds=2.0)
        self._asked: list[str] = []

    def once(self) -> None:
        if job_id := self.export(org(0)):
            self._asked = [*self._asked[-4:], job_id]
        if self._asked:
            self._fetch(org(0), self._asked[0])

    def export(self, org_id: str) -> str | None:
        """Ask for an hourly export of the whole window; return the job's id, None if that failed."""
        window = {"start": f"{self.scene.start:%FT%TZ}", "end": f"{self.scene.end:%FT%TZ}"}
        body = json.dumps({"timeRange": window, "granularity": "hourly"}).encode()
        answer = self.ask(org_id, "exports", method="POST", body=body)
        return str(answer.json()["jobId"]) if answer is not None and answer.status == 202 else None

    def _fetch(self, org_id: str, job_id: str) -> None:
        """Fetch a file by its link, and hold it against the checksum that the API gives."""
        told = self.ask(org_id, f"exports/{job_id}")
        if told is None or told.status != 200 or told.json()["status"] != "succeeded":
            return
        link = self.ask(org_id, f"exports/{job_id}/download")
        if link is None or link.status != 302:
            return
        number = self.history.invoke("download", self.name, job_id=job_id)
        try:
            answer = self._http.request("GET", link.headers["Location"], redirect=False, timeout=10)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self.history.end("download", "unknown", number, why=type(error).__name__)
            return
        if answer.status != 200:
            self.history.end("download", "fail", number, status=answer.status)
            return
        whole = hashlib.sha256(answer.data).hexdigest() == told.json()["checksum"]
        self.history.end("download", "ok", number, whole=whole)


class Marker(Producer):
    """Publishes one event at a time, and asks until an answer shows it: what a client sees of freshness."""

    def __init__(self, scene: Scene, history: History) -> None:
        super().__init__(scene, history, seed=1000, models=(_MARKER,), orgs=_MARKED + 1)
        self._asker = Asker("marker", scene, history, every_seconds=0)
        self._path = f"{usage_path(scene, 'day')}&{urlencode({'modelId': _MARKER})}"
        self._sent = 0
        self._number: int | None = None

    def once(self) -> None:
        if self._number is None:
            event = self.router.event()
            self._sent += 1
            self._number = self.history.invoke("marker", self.name)
            self.publish([event], encode(event))
        deadline = time.monotonic() + _PATIENCE_SECONDS / 2
        while time.monotonic() < deadline and not self.stopping.wait(0.25):
            answer = self._asker.ask(org(_MARKED), self._path, TENANT)
            if (
                answer is not None
                and answer.status == 200
                and answer.json()["totals"]["invocations"] >= self._sent
            ):
                self.history.end("marker", "ok", self._number)
                self._number = None
                return


class Scraper(Worker):
    """Reads the gateway's metrics and notes which counters have changed, and which are gone."""

    def __init__(self, scene: Scene, history: History) -> None:
        super().__init__("scraper", scene, history, every_seconds=1.0)
        self._http = urllib3.PoolManager(retries=False, timeout=10)
        self._last: dict[str, dict[str, float]] = {}

    def once(self) -> None:
        url = self.scene.gateway_url
        try:
            answer = self._http.request("GET", f"{url}/metrics")
        except (urllib3.exceptions.HTTPError, OSError):
            return
        if answer.status != 200:
            return
        counters = dict(_counters(answer.data.decode()))
        before = self._last.get(url, {})
        self._last = {url: counters}
        changed = {
            name: counters.get(name, 0.0)
            for name in before.keys() | counters.keys()
            if counters.get(name, 0.0) != before.get(name)
        }
        number = self.history.invoke("metrics", self.name, gateway=url)
        self.history.end("metrics", "ok", number, gateway=url, counters=changed)


def _counters(text: str) -> Iterator[tuple[str, float]]:
    """Yield the samples that may only rise: counters, counts of histograms. A process's go with it."""
    for line in text.splitlines():
        sample, _, value = line.rpartition(" ")
        name, _, labels = sample.partition("{")
        if not line.startswith("#") and name.endswith(_RISING) and 'pid="' not in labels:
            yield sample, float(value)
