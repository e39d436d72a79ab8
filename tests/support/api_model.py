"""A model of the API beside the API itself: what was asked for before decides what must be answered now.

Hypothesis chooses who does what. Each run has two organisations of its own with events and one without, in a
database that all runs share. The figures are those of the oracle (tests/support/oracle.py).
"""

import itertools
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlencode

from falcon import testing
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from psycopg2.extensions import connection

from tests.support.api_people import CROSS, EVERYBODY, OK, PLATFORM, headers_of, verdict
from tests.support.gateway_app import PREFIX, Gateway, assert_problem, read
from tests.support.oracle import Event
from tests.support.questions import an_event

_numbers = itertools.count()

people = st.sampled_from(EVERYBODY)
places = st.sampled_from([0, 0, 0, 1, 1, 2])
seeds = st.integers(0, 2**32).map(random.Random)
keys = st.sampled_from(["a", "b", "c " * 50, "~!@"])


@dataclass
class World:
    """What all runs share. publish: stores events and rolls them up."""

    gateway: Gateway
    owner: connection
    publish: Callable[[list[Event]], None]
    seen: Counter[str] = field(default_factory=Counter)
    """How often each rule was followed to its end."""


@dataclass
class Job:
    """An export that was asked for."""

    body: dict[str, Any]
    document: dict[str, Any]
    subject: str

    @property
    def id(self) -> str:
        found: str = self.document["jobId"]
        return found


class ApiModel(RuleBasedStateMachine):
    """One run: what was asked for so far. Rules are in api_exports, api_questions and api_faults."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.run = next(_numbers)
        self.orgs = [str(uuid.uuid4()) for _ in range(3)]
        self.events: list[Event] = []
        self.jobs: dict[str, list[Job]] = {org_id: [] for org_id in self.orgs}
        self.by_key: dict[tuple[str, str, str], Job] = {}
        self.audited: dict[str, str] = {}
        self.calls = 0

    # What every call has in common.

    def call(
        self, who: str, place: int, need: str, method: str, path: str, *, status: int = 200, **options: Any
    ) -> testing.Result | None:
        """Send a request about an organisation and check its status; None where it must be refused and was.

        path: behind the organisation's, or behind the prefix where need is PLATFORM.
        """
        org_id = self.orgs[place]
        self.calls += 1
        request_id = f"run-{self.run}-{self.calls}"
        path = f"{PREFIX}{path}" if need == PLATFORM else f"{PREFIX}/orgs/{org_id}{path}"
        headers = {"X-Request-ID": request_id, **options.pop("headers", {})}
        answer = self.world.gateway.call(
            method, path, headers_of(who, org_id, self.orgs[place - 1]), headers=headers, **options
        )
        wanted = verdict(who, need)
        note(f"{method} {path} {options} as {who}: {answer.status_code}")
        if wanted not in {OK, CROSS}:
            assert_problem(answer, int(wanted))
            return None
        assert answer.status_code == status, answer.text
        if wanted == CROSS and status < 400:
            self.audited[request_id] = "00000000-0000-0000-0000-000000000000" if need == PLATFORM else org_id
        assert answer.headers["x-request-id"] == request_id
        return answer

    def ask(self, who: str, place: int, need: str, path: str, **parameters: Any) -> Any:
        """Return the JSON of a GET, None where it must be refused and was."""
        answer = self.call(who, place, need, "GET", path, query=urlencode(parameters, doseq=True))
        return None if answer is None else read(answer)

    def ask_again(self, who: str, place: int, need: str, path: str, **parameters: Any) -> Any:
        """As ask, for what does not change by itself: whoever has the answer is told so."""
        query = urlencode(parameters, doseq=True)
        answer = self.call(who, place, need, "GET", path, query=query)
        if answer is None:
            return None
        has = {"If-None-Match": answer.headers["etag"]}
        self.call(who, place, need, "GET", path, query=query, headers=has, status=304)
        return read(answer)

    def of(self, place: int) -> list[Event]:
        """Return the organisation's events."""
        return [event for event in self.events if event["orgId"] == self.orgs[place]]

    # Events.

    @initialize(rng=seeds)
    def begin(self, rng: random.Random) -> None:
        """Both organisations have events."""
        self._publish(rng, 60)

    @rule(rng=seeds)
    def publish(self, rng: random.Random) -> None:
        """More events come in. First the files under way are made, so that it is known what is in them."""
        self.settle()
        self._publish(rng, 8)

    def _publish(self, rng: random.Random, number: int) -> None:
        more = [an_event(rng) | {"orgId": self.orgs[rng.randrange(2)]} for _ in range(number)]
        for event in more:
            event["eventId"] = str(uuid.uuid4())
        self.world.publish(more)
        self.events += more

    def settle(self) -> None:
        """Wait until every file is made."""
        deadline = time.monotonic() + 60
        while True:
            with self.world.owner.cursor() as cur:
                cur.execute(
                    "SELECT status, count(*) FROM analytics.export_jobs"
                    " WHERE org_id = ANY(%s::uuid[]) GROUP BY 1",
                    (self.orgs,),
                )
                found = dict(cur.fetchall())
            assert not found.keys() & {"failed", "expired"}, found
            if found.keys() <= {"succeeded"}:
                return
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    def teardown(self) -> None:
        """Each answer across organisations, and no other, is a row of the audit log."""
        with self.world.owner.cursor() as cur:
            cur.execute(
                "SELECT request_id, org_id::text FROM analytics.audit_log WHERE request_id LIKE %s",
                (f"run-{self.run}-%",),
            )
            rows = cur.fetchall()
        assert len(rows) == len(self.audited)
        assert dict(rows) == self.audited
        self.world.seen["run"] += 1
        self.world.seen["call"] += self.calls
