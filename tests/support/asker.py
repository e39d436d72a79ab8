"""Asks the gateway and the oracle the same, and compares what they say to the last token and decimal."""

import csv
import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from falcon import testing

from deploy.local.traffic import org
from shared.buckets import rfc3339
from tests.support.gateway_app import ADMIN, PREFIX, Gateway, assert_problem, read
from tests.support.oracle import MEMBERS, SUMS, Answer, Event, Key, Question, Sums, shown
from tests.support.questions import DAYS_ONLY, ORGS, PART_HOUR_ZONES, a_question

WHAT = ("usage", "reliability")


@dataclass
class Asker:
    """Holds a gateway against the events that it must know of.

    rollups_since, events_since: the first days of which rollups and raw events are kept, None while all are.
    actor: the headers of who asks.
    """

    gateway: Gateway
    events: Sequence[Event]
    rollups_since: datetime | None = None
    events_since: datetime | None = None
    actor: Mapping[str, str] = field(default_factory=lambda: ADMIN)

    def get(self, what: str, asked: Mapping[str, Any], org_id: str | None, **headers: str) -> testing.Result:
        """Send a question to the gateway."""
        path = f"/{what}" if org_id is None else f"/orgs/{org_id}/{what}"
        return self.gateway.call(
            "GET", PREFIX + path, self.actor, query=urlencode(asked, doseq=True), headers=headers
        )

    def ask(self, what: str, asked: Mapping[str, Any], org_id: str | None) -> Any:
        """Return the gateway's answer."""
        answer = self.get(what, asked, org_id)
        assert answer.status_code == 200, (asked, answer.text)
        return read(answer)

    def check_some(self, rng: random.Random, what: str, number: int) -> int:
        """Check random questions; return how many points the answers had."""
        points = 0
        for _ in range(number):
            platform = rng.random() < 0.25
            org_id = None if platform else org(rng.randrange(ORGS))
            points += self.check(
                what, a_question(rng, platform=platform, reliability=what == "reliability"), org_id
            )
        return points

    def check(self, what: str, asked: Mapping[str, Any], org_id: str | None) -> int:
        """Check a question in JSON and in CSV; return how many points the answer had."""
        question = Question(asked, org_id)
        answer = Answer(question, self._known(), keeps_hours=not self._of_days_only(question))
        answered = self.get(what, asked, org_id)
        oldest = answer.before[0] if question.compare else answer.start
        if answered.status_code == 400 and self.events_since is not None:
            assert_problem(answered, 400, "start")  # what needs raw events that are gone says so
            assert question.granularity == "minute" or question.zone_name in PART_HOUR_ZONES, asked
            assert oldest < self.events_since, asked
            return 0
        assert answered.status_code == 200, (asked, answered.text)
        got = read(answered)
        is_short = self.rollups_since is not None and oldest < self.rollups_since
        if question.granularity != "minute":
            wanted = rfc3339(self.rollups_since) if self.rollups_since and is_short else None
            assert got.get("completeSince") == wanted, asked
        compare(what, got, answer, question, asked)
        check_csv(self.get(what, asked, org_id, Accept="text/csv"), got["series"], asked)
        return len(got["series"])

    def _known(self) -> list[Event]:
        since = self.rollups_since
        return [
            event
            for event in self.events
            if since is None or datetime.fromisoformat(event["occurredAt"]) >= since
        ]

    @staticmethod
    def _of_days_only(question: Question) -> bool:
        filtered = (name for name, member in MEMBERS.items() if member in question.filters)
        return (question.dimension or next(filtered, None)) in DAYS_ONLY


def compare(
    what: str, got: Mapping[str, Any], answer: Answer, question: Question, asked: Mapping[str, Any]
) -> None:
    """Check an answer's window, points, totals and the window before against the oracle's."""
    assert (got["start"], got["end"]) == (shown(answer.start, question), shown(answer.end, question)), asked
    points = {key_of(point, question): point for point in got["series"]}
    assert len(points) == len(got["series"]), asked
    assert points.keys() == answer.points.keys(), asked
    check: Callable[..., None] = assert_usage
    options = {}
    if what == "reliability":
        has_codes = question.dimension is None and not (question.filters.keys() - {"modelId", "orgId"})
        check, options = assert_reliability, {"codes": has_codes}
    for key, sums in answer.points.items():
        check(points[key], sums, (asked, key), **options)
    check(got["totals"], answer.totals, (asked, "totals"), **options)
    for name in ("invocations", "errors", *(SUMS if what == "usage" else ())):
        assert sum(point[name] for point in got["series"]) == got["totals"][name], (asked, name)
    if question.compare:
        begin, sums = answer.before
        before = got["previous"]
        assert (before["start"], before["end"]) == (shown(begin, question), got["start"]), asked
        check(before["totals"], sums, (asked, "previous"), **options)


def key_of(point: Mapping[str, Any], question: Question) -> Key:
    """Return what distinguishes a point from the others of its answer."""
    dimension = question.dimension
    value = None if dimension is None else point[MEMBERS.get(dimension, dimension)]
    return (
        point["bucketStart"],
        point["orgId"] if question.by_org else None,
        point["modelId"] if question.by_model else None,
        value,
        point.get("other", False),
    )


def assert_usage(got: Mapping[str, Any], sums: Sums, where: object) -> None:
    """Check counts, tokens and cost."""
    wanted = sums.usage()
    assert {name: got[name] for name in wanted} == wanted, where


def assert_reliability(got: Mapping[str, Any], sums: Sums, where: object, *, codes: bool) -> None:
    """Check outcomes and speed, and percentiles within 1%."""
    wanted = sums.reliability()
    for name in ("invocations", "errors", "errorsByStatus"):
        assert got[name] == wanted[name], (where, name)
    assert got["errorCodes"] == (wanted["errorCodes"] if codes else None), where
    for name in ("errorRate", "outputTokensPerSecond"):
        exact = wanted[name]
        assert got[name] == exact if exact is None else float(got[name]) == exact, (where, name)
    for name in ("latencyMs", "timeToFirstTokenMs"):
        for percent, value in got[name].items():
            exact = wanted[name][percent]
            if exact is None:
                assert value is None, (where, name)
            else:
                assert abs(value - exact) * 100 <= exact, (where, name, percent, value, exact)


# Columns that have another name than their member.
_CELLS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "bucket_start": lambda point: point["bucketStart"],
    "org_id": lambda point: point["orgId"],
    "model_id": lambda point: point["modelId"],
    "client_id": lambda point: point["clientId"],
    "actor_id": lambda point: point["actorId"],
    "api_key_id": lambda point: point["apiKeyId"],
    "other": lambda point: point.get("other", False),
    "error_rate": lambda point: point["errorRate"],
    "input_tokens": lambda point: point["inputTokens"],
    "output_tokens": lambda point: point["outputTokens"],
    "cost_estimate_cents": lambda point: point["costEstimateCents"],
    "cached_input_tokens": lambda point: point["cachedInputTokens"],
    "cache_write_input_tokens": lambda point: point["cacheWriteInputTokens"],
    "reasoning_tokens": lambda point: point["reasoningTokens"],
    "error_codes": lambda point: " ".join(
        f"{code['errorCode']}:{code['count']}" for code in point["errorCodes"] or ()
    ),
    "output_tokens_per_second": lambda point: point["outputTokensPerSecond"],
    **{
        f"{column}_{name}_ms": lambda point, member=member, name=name: point[member][name]  # type: ignore[misc]
        for column, member in (("latency", "latencyMs"), ("time_to_first_token", "timeToFirstTokenMs"))
        for name in ("p50", "p95", "p99")
    },
    **{
        f"status_{name}": lambda point, name=name: point["errorsByStatus"][name]  # type: ignore[misc]
        for name in ("error", "timeout", "throttled")
    },
}


def check_csv(answer: testing.Result, series: Sequence[Mapping[str, Any]], asked: object) -> None:
    """Check that a CSV's cells are the points of the answer in JSON, each of them."""
    assert answer.status_code == 200, (asked, answer.text)
    lines = list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
    assert len(lines) == len(series), asked
    for line, point in zip(lines, series, strict=True):
        for column, cell in line.items():
            value = _CELLS[column](point) if column in _CELLS else point[column]
            if isinstance(value, str):
                # An apostrophe keeps spreadsheets from running it.
                assert cell in {value, f"'{value}"}, (asked, column)
                assert not cell.startswith(("=", "-", "+", "@")), (asked, column)
            elif isinstance(value, bool):
                assert cell == str(value).lower(), (asked, column)
            else:
                assert (None if cell == "" else Decimal(cell)) == value, (asked, column)
