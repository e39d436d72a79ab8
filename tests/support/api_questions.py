"""What the answers about usage, reliability, dimensions, freshness and incidents promise."""

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.support.access_table import INCIDENTS, RELIABILITY, USAGE
from tests.support.api_model import ApiModel, people, places, seeds
from tests.support.api_people import CROSS, OK, PLATFORM, headers_of, verdict
from tests.support.asker import WHAT, Asker
from tests.support.oracle import MEMBERS, Answer, Event, Question
from tests.support.oracle import field as value_of
from tests.support.questions import FIRST, KEPT, MODELS, VALUES, a_question


class QuestionRules(ApiModel):
    """Questions: each answer is what the oracle says."""

    @rule(who=people, place=places, rng=seeds, platform=st.booleans())
    def question(self, who: str, place: int, rng: random.Random, platform: bool) -> None:
        """Series, totals, window and CSV are what the oracle says, of one organisation and of all."""
        for what in WHAT:
            self._question(who, place, rng, what, platform=platform)

    def _question(self, who: str, place: int, rng: random.Random, what: str, *, platform: bool) -> None:
        asked = a_question(rng, platform=platform, reliability=what == "reliability")
        need = PLATFORM if platform else {"usage": USAGE, "reliability": RELIABILITY}[what]
        if platform:
            asked["orgId"] = rng.sample(self.orgs, rng.randrange(1, 4))
        if verdict(who, need) not in {OK, CROSS}:
            self.call(who, place, need, "GET", f"/{what}", query=urlencode(asked, doseq=True))
            return
        note(f"{what} of {place} as {who}: {asked}")
        headers = headers_of(who, self.orgs[place], self.orgs[place - 1])
        Asker(self.world.gateway, self.events, actor=headers).check(
            what, asked, None if platform else self.orgs[place]
        )
        self.world.seen["question"] += 1

    @rule(who=people, place=places, rng=seeds, name=st.sampled_from(["model", *(each.name for each in KEPT)]))
    def values(self, who: str, place: int, rng: random.Random, name: str) -> None:
        """The values in use are those of the events in the window, the most used first."""
        start = FIRST + timedelta(days=70) * rng.random()
        end = start + timedelta(minutes=rng.randrange(1, 60 * 24 * 60))
        limit = rng.choice((1, 2, 200))
        window = {"start": start.isoformat(), "end": end.isoformat()}
        asked: dict[str, Any] = window | {"limit": limit}
        prefix = rng.choice([None, None, *(value[:1] for value in VALUES.get(name, MODELS) if value)])
        if prefix is not None:
            asked["prefix"] = prefix
        found = self.ask_again(who, place, USAGE, f"/dimensions/{name}/values", **asked)
        if found is None:
            return
        answer = Answer(Question(window, self.orgs[place]), self.events)
        counts: Counter[str] = Counter()
        costs: dict[str, Decimal] = {}
        for event in answer.totals.events:
            value = value_of(event, "modelId" if name == "model" else MEMBERS.get(name, name))
            if value is not None and value.startswith(prefix or ""):
                counts[value] += 1
                costs[value] = costs.get(value, Decimal(0)) + event["costEstimateCents"]
        listed = found["values"]
        assert [each["invocations"] for each in listed] == sorted(counts.values(), reverse=True)[:limit]
        assert len({each["value"] for each in listed}) == len(listed)
        for each in listed:
            assert (each["invocations"], each["costEstimateCents"]) == (
                counts[each["value"]],
                costs[each["value"]],
            )
        self.world.seen["values"] += 1

    @rule(who=people, place=places)
    def dimensions(self, who: str, place: int) -> None:
        """What can be asked by is what is kept."""
        found = self.ask_again(who, place, USAGE, "/dimensions")
        if found is not None:
            said = {each["name"]: (each["keepsHours"], each["completeSince"]) for each in found["dimensions"]}
            assert said == {each.name: (each.keeps_hours, None) for each in KEPT}

    @rule(who=people, place=places)
    def freshness(self, who: str, place: int) -> None:
        """All is rolled up: nothing lags, and each model's newest event is known."""
        found = self.ask(who, place, USAGE, "/freshness")
        if found is None:
            return
        newest: dict[str, datetime] = {}
        for event in self.of(place):
            at = datetime.fromisoformat(event["occurredAt"])
            newest[event["modelId"]] = max(newest.get(event["modelId"], at), at)
        said = {each["modelId"]: datetime.fromisoformat(each["lastEventAt"]) for each in found["entries"]}
        assert said == newest
        assert (found["status"], found["lagSeconds"]) == (("fresh", 0) if newest else ("unknown", None))
        assert all((each["status"], each["lagSeconds"]) == ("fresh", 0) for each in found["entries"])
        self.world.seen["freshness"] += 1

    @rule(who=people, place=places, rng=seeds, max_rows=st.none() | st.integers(1, 20))
    def incident(self, who: str, place: int, rng: random.Random, max_rows: int | None) -> None:
        """An incident's rows are the events of its window, in their order, and what was cut off is said."""
        start = FIRST + timedelta(days=70) * rng.random()
        end = start + timedelta(minutes=rng.randrange(1, 60 * 24 * 60))
        asked: dict[str, Any] = {"start": start.isoformat(), "end": end.isoformat()}
        if max_rows is not None:
            asked["maxRows"] = max_rows
        for name, values in (("modelId", MODELS), ("status", ("success", "error", "timeout"))):
            if rng.random() < 0.3:
                asked[name] = rng.choice(values)
        answer = self.call(who, place, INCIDENTS, "GET", "/incidents/export", query=urlencode(asked))
        if answer is None:
            return
        events = [
            event
            for event in self.of(place)
            if start <= datetime.fromisoformat(event["occurredAt"]) < end
            and all(event[name] == asked[name] for name in ("modelId", "status") if name in asked)
        ]
        rows = list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
        assert len(rows) == min(len(events), max_rows or 10_000)
        assert answer.headers["x-truncated"] == ("true" if len(rows) < len(events) else "false")
        times = [datetime.fromisoformat(row["occurred_at"]) for row in rows]
        assert times == sorted(datetime.fromisoformat(event["occurredAt"]) for event in events)[: len(rows)]
        by_id = {event["eventId"]: event for event in events}
        for row in rows:
            _check_row(row, by_id.pop(row["event_id"]))
        self.world.seen["incident"] += 1


def _check_row(row: Mapping[str, str], event: Event) -> None:
    """Compare a row of an incident with its event."""
    for column, name in (
        ("org_id", "orgId"), ("model_id", "modelId"), ("actor_id", "actorId"), ("status", "status"),
        ("error_code", "errorCode"), ("input_tokens", "inputTokens"), ("output_tokens", "outputTokens"),
        ("latency_ms", "latencyMs"),
    ):  # fmt: skip
        text = "" if event[name] is None else str(event[name])
        assert row[column] in {text, f"'{text}"}, (row, event)
    assert Decimal(row["cost_estimate_cents"]) == event["costEstimateCents"]
    assert json.loads(row["metadata"]) == (event["metadata"] or {})
