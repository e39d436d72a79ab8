"""The load of a drill: publishers, readers and askers of exports, each noting in the history what it does."""

import hashlib
import itertools
import json
import random
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlencode

import pika.exceptions
import urllib3

from deploy.local.api import ADMIN
from deploy.local.traffic import Event, Publisher, Router, encode, org
from tests.drills.history import History, written
from tests.drills.scene import Scene

ORGS = 3
CANARY = "canary/of-org-2"
"""The only model of the last organisation; no other's answer may ever hold its name."""
_PATIENCE_SECONDS = 60
_heartbeats = urlencode({"heartbeat": 4, "blocked_connection_timeout": 10, "socket_timeout": 5})


class Worker(threading.Thread):
    """Does one thing again and again, unless it is paused, until it is stopped."""

    def __init__(self, name: str, scene: Scene, history: History, every_seconds: float) -> None:
        super().__init__(name=name)
        self.scene, self.history = scene, history
        self.stopping = threading.Event()
        self.paused = threading.Event()
        self.resting = threading.Event()
        """Set while it is paused and has ended what it began."""
        self._every_seconds = every_seconds

    def run(self) -> None:
        while not self.stopping.wait(self._every_seconds):
            if self.paused.is_set():
                self.resting.set()
                continue
            self.resting.clear()
            self.once()
        self.resting.set()

    def once(self) -> None:
        """Do it once."""
        raise NotImplementedError


class Producer(Worker):
    """Publishes messages: new events, singly and in batches, events again, changed ones, malformed ones.

    What got no confirmation is published again until it does.
    """

    def __init__(self, scene: Scene, history: History, seed: int) -> None:
        super().__init__(f"publisher-{seed}", scene, history, every_seconds=0.15)
        self._random = random.Random(seed)
        self._router = Router(seed=seed, start=scene.events_from, end=scene.events_until, orgs=ORGS)
        self._recent: list[Event] = []
        self.changed_share = 0.03
        """Of the messages, how many bring known events with another content."""
        self.confirmed: set[tuple[str, str]] = set()

    def once(self) -> None:
        choice = self._random.random()
        if choice < 0.03:
            self._publish([], encode(self._router.event())[:-1])
            return
        if choice < 0.10 + self.changed_share and self._recent:
            events = self._random.sample(self._recent, min(20, len(self._recent)))
            if choice < 0.03 + self.changed_share:
                events = [_earlier(event) for event in events]
        else:
            events = [_own_model(event) for event in self._router.events(self._random.choice((1, 1, 10, 40)))]
            self._recent = (self._recent + events)[-200:]
        self._publish(events, encode(events if len(events) > 1 else events[0]))

    def _publish(self, events: list[Event], body: bytes) -> None:
        malformed = [] if events else [digest(body)]
        while not self.stopping.is_set():
            number = self.history.invoke("publish", self.name, events=written(events), malformed=malformed)
            state = self._try(body)
            self.history.end("publish", state, number)
            if state == "ok":
                self.confirmed.update((event["orgId"], event["eventId"]) for event in events)
                return
            self.stopping.wait(0.3)

    def _try(self, body: bytes) -> Literal["ok", "fail", "unknown"]:
        try:
            url = f"{self.scene.rabbitmq_url}?{_heartbeats}"
            with Publisher(url, self.scene.exchange, confirm=True) as out:
                out.publish([body])
        except (pika.exceptions.NackError, pika.exceptions.UnroutableError):
            return "fail"
        except (pika.exceptions.AMQPError, OSError):
            return "unknown"
        return "ok"


def digest(body: bytes) -> str:
    """Return what a history and the checker know a malformed message by."""
    return hashlib.sha256(body).hexdigest()[:20]


def _own_model(event: Event) -> Event:
    return event | {"modelId": CANARY} if event["orgId"] == org(ORGS - 1) else event


def _earlier(event: Event) -> Event:
    """Return the event with another content under the same key: an hour earlier."""
    occurred_at = datetime.fromisoformat(event["occurredAt"]) - timedelta(hours=1)
    return event | {"occurredAt": occurred_at.isoformat().replace("+00:00", "Z")}


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
        shown = _invocations(answer) if "usage?" in path else {}
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
        own = {"X-Actor-Subject": "tenant", "X-Actor-Roles": "analytics:usage:read", "X-Actor-Orgs": org(0)}
        for number in range(ORGS):
            self.ask(org(number), path)
        self.ask(org(0), path, own)
        self.ask(org(0), "freshness", own)  # the one answer that Redis has a part in
        self.ask(org(1), path, own, forbidden=True)


class Exporter(Asker):
    """Asks for exports, one after another; whether they end is looked for at the end."""

    def __init__(self, scene: Scene, history: History) -> None:
        super().__init__("exporter", scene, history, every_seconds=2.0)

    def once(self) -> None:
        self.export(org(0))

    def export(self, org_id: str) -> str | None:
        """Ask for an hourly export of the whole window; return the job's id, None if that failed."""
        window = {"start": f"{self.scene.start:%FT%TZ}", "end": f"{self.scene.end:%FT%TZ}"}
        body = json.dumps({"timeRange": window, "granularity": "hourly"}).encode()
        answer = self.ask(org_id, "exports", method="POST", body=body)
        return str(answer.json()["jobId"]) if answer is not None and answer.status == 202 else None


class Load:
    """All of it together."""

    def __init__(self, scene: Scene, history: History) -> None:
        self.producers = [Producer(scene, history, seed) for seed in (1, 2)]
        self.exporter = Exporter(scene, history)
        self.workers: list[Worker] = [*self.producers, Reader(scene, history), self.exporter]

    def start(self) -> None:
        """Start to publish and to ask."""
        for worker in self.workers:
            worker.start()

    def pause(self) -> None:
        """Let each end what it began, and wait for that."""
        for worker in self.workers:
            worker.resting.clear()
            worker.paused.set()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for worker in self.workers:
            assert worker.resting.wait(deadline - time.monotonic()), f"{worker.name} does not come to rest"

    def resume(self) -> None:
        """Go on."""
        for worker in self.workers:
            worker.paused.clear()

    def stop(self) -> None:
        """End it."""
        for worker in self.workers:
            worker.stopping.set()
        for worker in self.workers:
            worker.join(_PATIENCE_SECONDS)

    @property
    def confirmed(self) -> int:
        """How many events the broker has confirmed."""
        return len(set().union(*(producer.confirmed for producer in self.producers)))
