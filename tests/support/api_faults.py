"""What a request that is at fault is answered, and an event that is."""

import json
import random
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.support.access_table import CREATE, READ, RELIABILITY, USAGE
from tests.support.api_model import ApiModel, people, places, seeds
from tests.support.api_people import headers_of
from tests.support.export_cuts import an_export
from tests.support.gateway_app import PREFIX, assert_problem, read
from tests.support.questions import NOW, an_event


class FaultRules(ApiModel):
    """Refusals name the fault, and change nothing."""

    @rule(who=people, place=places, rng=seeds, what=st.sampled_from(["usage", "reliability", "exports"]))
    def wrong_question(self, who: str, place: int, rng: random.Random, what: str) -> None:
        """A fault is named, before anything is read."""
        asked: dict[str, Any] = (
            {} if what == "exports" else {"start": NOW.isoformat(), "end": NOW.isoformat()}
        )
        if what != "exports":
            asked["end"] = (NOW + timedelta(hours=1)).isoformat()
        name, value = rng.choice(_WRONG[what])
        need = {"usage": USAGE, "reliability": RELIABILITY, "exports": READ}[what]
        query = urlencode(asked | {name: value}, doseq=True)
        answer = self.call(who, place, need, "GET", f"/{what}", query=query, status=400)
        if answer is not None:
            assert_problem(answer, 400, name)
            assert read(answer)["type"] == "urn:problem:analytics:invalid-request"
            self.world.seen["wrong question"] += 1

    @rule(who=people, place=places, rng=seeds)
    def wrong_export(self, who: str, place: int, rng: random.Random) -> None:
        """A fault of a body is named, and no job is made of it."""
        name, value = rng.choice(_WRONG_EXPORTS)
        body: dict[str, Any] = an_export(rng) | {"timeZone": "UTC", "groupBy": "model"}
        if "." in name:
            body["timeRange"] = body["timeRange"] | {name.partition(".")[2]: value}
        else:
            body[name] = value
        answer = self.call(who, place, CREATE, "POST", "/exports", status=400, body=json.dumps(body).encode())
        if answer is not None:
            assert_problem(answer, 400, name)
            self.world.seen["wrong export"] += 1

    @rule(who=people, place=places, name=st.sampled_from(["", "status", "latencyMs", "orgId", "modelId"]))
    def validate(self, who: str, place: int, name: str) -> None:
        """An event is judged for whoever is somebody, and its fault is named."""
        event = an_event(random.Random(place)) | {"costEstimateCents": 1}
        if name:
            event[name] = -1
        body = json.dumps([event] if place else event).encode()
        path = f"{PREFIX}/events/validate"
        answer = self.world.gateway.call("POST", path, headers_of(who, self.orgs[0], self.orgs[1]), body=body)
        if who == "nobody":
            assert_problem(answer, 401)
        elif name:
            assert_problem(answer, 400, f"[0].{name}" if place else name)
        else:
            assert answer.status_code == 204


_WRONG_CUTS: list[tuple[str, Any]] = [
    ("start", "yesterday"), ("start", "2026-11-01T00:00:00"),
    ("end", ""), ("end", "2020-01-01T00:00:00Z"), ("end", "9999-12-31T23:59:59Z"),
    ("granularity", "year"), ("granularity", ["day", "day"]), ("timeZone", "Mars/Base"),
    ("timeZone", "../UTC"),
    ("groupBy", "model,client,actor"), ("groupBy", "nobody"), ("groupBy", ""),
    ("groupBy", "metadata.unknown"),
    ("top", "0"), ("top", "101"), ("top", "-1"), ("top", "\u0661"), ("orderBy", "name"), ("compare", "next"),
    ("unknown", "1"), ("modelId", ""), ("modelId", "x" * 201), ("modelId", "a\0b"), ("clientId", ["a", ""]),
    ("metadata.", "x"), ("orgId", "x"), ("limit", "1"),
]  # fmt: skip
_WRONG: dict[str, list[tuple[str, Any]]] = {
    "usage": [*_WRONG_CUTS, ("granularity", "minute"), ("percentile", "p50")],
    "reliability": [*_WRONG_CUTS, ("percentile", "p100")],
    "exports": [("limit", "0"), ("limit", "201"), ("limit", "1.0"), ("limit", ["1", "1"]), ("status", "done"),
                ("cursor", ""), ("cursor", "x"), ("cursor", "MjAyNi0xMS0wMVQwMDowMDowMFogeA=="),
                ("page", "2")],
}  # fmt: skip
_WRONG_EXPORTS: list[tuple[str, Any]] = [
    ("timeRange", None), ("timeRange", {}), ("timeRange.start", 1), ("timeRange.end", "2026-11-01"),
    ("timeRange.end", "2020-01-01T00:00:00Z"), ("granularity", "hour"), ("granularity", None),
    ("models", []),
    ("models", [""]), ("models", ["x"] * 101), ("models", "gpt"), ("groupBy", "org"), ("groupBy", ["model"]),
    ("timeZone", "Mars/Base"), ("timeZone", 1), ("compression", "zip"), ("orgId", "x"),
]  # fmt: skip
