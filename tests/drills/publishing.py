"""The publishers of a drill, each noting in the history what it sends and what became of it."""

import hashlib
import random
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import urlencode

import pika.exceptions

from deploy.local.traffic import MODELS, Event, Publisher, Router, encode, org
from tests.drills.history import History, written
from tests.drills.scene import CANARY, ORGS, Scene
from tests.drills.worker import Worker

_heartbeats = urlencode({"heartbeat": 4, "blocked_connection_timeout": 10, "socket_timeout": 5})


class Producer(Worker):
    """Publishes messages: new events, singly and in batches, events again, changed ones, malformed ones.

    What got no confirmation is published again until it does.
    """

    def __init__(
        self, scene: Scene, history: History, seed: int, *, models: Sequence[str] = MODELS, orgs: int = ORGS
    ) -> None:
        super().__init__(f"publisher-{seed}", scene, history, every_seconds=0.15)
        self._random = random.Random(seed)
        self.router = Router(
            seed=seed, start=scene.events_from, end=scene.events_until, orgs=orgs, models=models
        )
        self._recent: list[Event] = []
        self._busy = threading.Lock()
        scene.publishers.append(self._busy)
        self.changed_share = 0.03
        """Of the messages, how many bring known events with another content."""
        self.recent_events = 200
        """Of how many events, the newest, known ones are taken."""
        self.confirmed: set[tuple[str, str]] = set()

    def once(self) -> None:
        choice = self._random.random()
        if choice < 0.03:
            self.publish([], encode(self.router.event())[:-1])
            return
        if choice < 0.10 + self.changed_share and self._recent:
            events = self._random.sample(self._recent, min(20, len(self._recent)))
            if choice < 0.03 + self.changed_share:
                events = [_earlier(event) for event in events]
        else:
            count = self._random.choice((1, 1, 10, 40)) * self.scene.pace
            events = [_own_model(event) for event in self.router.events(count)]
            self._recent = (self._recent + events)[-self.recent_events :]
        self.publish(events, encode(events if len(events) > 1 else events[0]))

    def publish(self, events: list[Event], body: bytes) -> None:
        """Publish a message until it is confirmed, or the load ends."""
        malformed = [] if events else [digest(body)]
        while not self.stopping.is_set():
            with self._busy:
                number = self.history.invoke(
                    "publish", self.name, events=written(events), malformed=malformed
                )
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
                # Without a queue the broker would confirm what it throws away.
                out.publish([body], mandatory=True)
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
