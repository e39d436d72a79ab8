"""Random questions about random events, answered by the service and by an oracle: both must agree exactly."""

import csv
import io
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import org
from rollup_worker.days import Days
from rollup_worker.dimensions import drop_dimension, keep_dimensions
from rollup_worker.remake import backfill
from rollup_worker.rollups import Rollups
from rollup_worker.verify import Window, rebuild
from shared.buckets import bucket_start
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.process import Stop
from shared.settings import KeptDimension
from tests.support.gateway_app import PREFIX, Gateway, read
from tests.support.oracle import MEMBERS, Answer, Event, Key, Question, Sums, shown
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch

ADMIN = {"X-Actor-Subject": "operator", "X-Actor-Roles": "admin"}
MODELS = ("gpt-9", "GPT-9", "meta-llama/Llama-3.1-8B", "a'; --", "\u212bngstr\u00f6m \U0001f600", "=1+1")
CLIENTS = ("web", "Web", "sdk, python", 'say "hi"', "\u65e5\u672c", "-2+3", "\u00e9", "e\u0301", " ")
REGIONS = ("eu-1", "us-1", "", "\u00fcber")
ZONES = (
    "UTC", "UTC", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Europe/Berlin", "Pacific/Auckland",
    "Australia/Lord_Howe", "America/St_Johns", "Pacific/Chatham", "Africa/Cairo", "Asia/Tokyo",
    "Pacific/Kiritimati", "Europe/London",
)  # fmt: skip
ORGS = 3
# The nights in which clocks change within the window of the events, in several zones.
NIGHTS = ("2026-10-03T15:30:00Z", "2026-10-04T14:00:00Z", "2026-10-25T01:00:00Z", "2026-11-01T06:00:00Z",
          "2026-10-29T21:00:00Z", "2026-09-26T14:00:00Z")  # fmt: skip
NOW = datetime.now(UTC)
FIRST = NOW - timedelta(days=70)
DAYS_ONLY = {"actor"}
KEPT = tuple(KeptDimension(name, keeps_hours=name not in DAYS_ONLY) for name in (*MEMBERS, "metadata.region"))
GRANULARITIES = ("hour", "day", "week", "month", "total")


def an_event(rng: random.Random) -> Event:
    """Return an event whose values are skewed, odd, or not there."""
    if rng.random() < 0.4:
        night = datetime.fromisoformat(rng.choice(NIGHTS))
        at = night + timedelta(seconds=rng.randrange(-7200, 7200))
    elif rng.random() < 0.05:
        at = NOW + timedelta(minutes=rng.randrange(24 * 60))
    else:
        at = FIRST + (NOW - FIRST) * rng.random() ** 0.5
    if rng.random() < 0.2:
        at = at.replace(minute=rng.choice((0, 15, 30, 45)), second=0, microsecond=0)
    status = rng.choice(("success", "success", "success", "error", "timeout", "throttled"))
    tokens_in, tokens_out = int(rng.paretovariate(0.5)) % 10**12, int(rng.paretovariate(0.7)) % 10**12
    cached = rng.randrange(tokens_in + 1)
    latency = rng.choice((0, 1, 98, 99, 100, int(rng.lognormvariate(6, 1)), 2**31 - 1))
    event: Event = {
        "eventId": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "orgId": org(min(int(rng.expovariate(1)), ORGS - 1)),
        "occurredAt": at.isoformat().replace("+00:00", "Z"),
        "modelId": rng.choice(MODELS),
        "status": status,
        "latencyMs": latency,
        "inputTokens": tokens_in,
        "outputTokens": tokens_out,
        "costEstimateCents": Decimal(rng.randrange(10 ** rng.choice((1, 5, 12)))).scaleb(-10),
        "clientId": rng.choice((None, *CLIENTS)),
        "actorId": rng.choice((None, f"user-{int(rng.paretovariate(0.8)) % 60}")),
        "apiKeyId": rng.choice((None, None, None, "key-1", "key-2")),
        "provider": rng.choice(("openai", "anthropic")),
        "operation": None,
        "metadata": rng.choice((None, {}, {"region": rng.choice(REGIONS), "x": "y"})),
        "errorCode": rng.choice((None, *(f"CODE_{number}" for number in range(14)))),
        "cachedInputTokens": rng.choice((None, cached)),
        "cacheWriteInputTokens": rng.choice((None, tokens_in - cached)),
        "reasoningTokens": rng.choice((None, rng.randrange(tokens_out + 1))),
        "timeToFirstTokenMs": rng.choice((None, rng.randrange(latency + 1))),
    }
    return event


def a_question(rng: random.Random, *, platform: bool, reliability: bool) -> dict[str, Any]:  # noqa: C901  many choices
    """Return the parameters of a question that has an answer."""
    dimension = rng.choice((None, None, *MEMBERS, "metadata.region"))
    granularity = rng.choice(GRANULARITIES)
    zone = rng.choice(ZONES)
    if dimension in DAYS_ONLY:
        zone, granularity = "UTC", rng.choice(("day", "week", "month", "total"))
    if reliability and rng.random() < 0.1 and dimension not in DAYS_ONLY:
        granularity = "minute"
    span = timedelta(minutes=rng.randrange(1, {"minute": 350, "hour": 5000}.get(granularity, 100_000)))
    night = datetime.fromisoformat(rng.choice(NIGHTS))
    middle = night if rng.random() < 0.5 else FIRST + (NOW - FIRST) * rng.random()
    start = middle - span * rng.random()
    asked: dict[str, Any] = {
        "start": start.isoformat(),
        "end": (start + span).isoformat(),
        "granularity": granularity,
    }
    if zone != "UTC" or rng.random() < 0.1:
        asked["timeZone"] = zone
    groups = [name for name in ("org", "model") if rng.random() < 0.5 and (platform or name == "model")]
    name = MEMBERS.get(dimension or "", dimension)
    if dimension is not None and rng.random() < 0.7:
        groups.append(dimension)
    if rng.random() < 0.9:
        asked["groupBy"] = ",".join(groups) or "none"
    if dimension is not None and (dimension not in groups or rng.random() < 0.3 or "groupBy" not in asked):
        values = {"client": CLIENTS, "actor": ("user-1", "user-2", "user-3", "nobody"), "apiKey": ("key-1",)}
        known = values.get(dimension, (*REGIONS, "openai", "anthropic"))
        asked[str(name)] = rng.sample(known, rng.randrange(1, min(4, len(known)) + 1))
    if rng.random() < 0.3:
        asked["modelId"] = rng.sample((*MODELS, "nobody's"), rng.randrange(1, 4))
    if platform and rng.random() < 0.3:
        asked["orgId"] = rng.sample([org(number) for number in range(ORGS)], rng.randrange(1, ORGS + 1))
    if rng.random() < 0.4:
        asked["top"] = str(rng.choice((1, 2, 3, 10, 100)))
        asked["orderBy"] = rng.choice(
            ("costEstimateCents", "invocations", "errors", "inputTokens", "outputTokens")
        )
    if rng.random() < 0.3:
        asked["compare"] = "previous"
    return asked


class Asker:
    """Asks the gateway and the oracle the same."""

    def __init__(self, gateway: Gateway, events: list[Event]) -> None:
        self._gateway = gateway
        self._events = events

    def ask(self, what: str, asked: Mapping[str, Any], org_id: str | None) -> tuple[Any, Answer, Question]:
        """Return the gateway's answer and the oracle's."""
        question = Question(asked, org_id)
        dimension = question.dimension or next(
            (name for name, member in MEMBERS.items() if member in question.filters), None
        )
        answer = Answer(question, self._events, keeps_hours=dimension not in DAYS_ONLY)
        got = read(self.get(what, asked, org_id))
        return got, answer, question

    def get(self, what: str, asked: Mapping[str, Any], org_id: str | None, **headers: str) -> Any:
        path = f"/{what}" if org_id is None else f"/orgs/{org_id}/{what}"
        query = urlencode(asked, doseq=True)
        answer = self._gateway.call("GET", PREFIX + path, ADMIN, query=query, headers=headers)
        assert answer.status_code == 200, (query, answer.text)
        return answer


def key_of(point: Mapping[str, Any], question: Question) -> Key:
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
    wanted = sums.usage()
    assert {name: got[name] for name in wanted} == wanted, where


def assert_reliability(got: Mapping[str, Any], sums: Sums, where: object, *, codes: bool) -> None:
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


@pytest.fixture
def worker(database: TestDatabase) -> Iterator[Database]:
    """The rollup worker's own connection."""
    opened = Database(database.rollup_worker_url, application_name="rollups")
    yield opened
    opened.close()


def roll_up(worker: Database) -> None:
    rollups = Rollups(worker, RollupMetrics(CollectorRegistry()))
    while rollups.add_waiting():
        pass


@pytest.fixture
def asker(environ: dict[str, str], owner: connection, worker: Database) -> Asker:
    rng = random.Random(20261120)
    events = [an_event(rng) for _ in range(800)]
    keep_dimensions(worker, KEPT)
    for at in range(0, len(events), 300):
        insert_batch(owner, events[at : at + 300], NOW)
    roll_up(worker)
    with owner.cursor() as cur:  # nothing was before
        cur.execute("UPDATE analytics.rollup_dimensions SET complete_since = NULL")
    return Asker(Gateway(environ, clock=lambda: NOW), events)


def check_one(asker: Asker, rng: random.Random, what: str) -> int:
    """Ask one question in JSON and in CSV; return how many points it had."""
    platform = rng.random() < 0.25
    org_id = None if platform else org(rng.randrange(ORGS))
    asked = a_question(rng, platform=platform, reliability=what == "reliability")
    got, answer, question = asker.ask(what, asked, org_id)
    assert (got["start"], got["end"]) == (shown(answer.start, question), shown(answer.end, question)), asked
    points = {key_of(point, question): point for point in got["series"]}
    assert len(points) == len(got["series"]), asked
    assert points.keys() == answer.points.keys(), asked
    codes = question.dimension is None and not (question.filters.keys() - {"modelId", "orgId"})
    check: Callable[..., None] = assert_usage
    options = {}
    if what == "reliability":
        check, options = assert_reliability, {"codes": codes}
    for key, sums in answer.points.items():
        check(points[key], sums, (asked, key), **options)
    check(got["totals"], answer.totals, (asked, "totals"), **options)
    if question.compare:
        begin, sums = answer.before
        before = got["previous"]
        assert (before["start"], before["end"]) == (shown(begin, question), got["start"]), asked
        check(before["totals"], sums, (asked, "previous"), **options)
    check_csv(asker.get(what, asked, org_id, Accept="text/csv"), got["series"], asked)
    return len(points)


def check_csv(answer: Any, series: list[dict[str, Any]], asked: Any) -> None:
    lines = list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
    assert len(lines) == len(series), asked
    for line, point in zip(lines, series, strict=True):
        assert line["bucket_start"] == point["bucketStart"]
        for column, name in (("invocations", "invocations"), ("cost_estimate_cents", "costEstimateCents")):
            if name in point and column in line:
                assert Decimal(line[column]) == point[name], asked
        if "modelId" in point:
            model = point["modelId"] or ""
            assert line["model_id"] == (f"'{model}" if model.startswith("=") else model)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["usage", "reliability"])
@pytest.mark.parametrize("seed", range(2))
def test_the_service_agrees_with_the_oracle(asker: Asker, what: str, seed: int) -> None:
    rng = random.Random(f"{what} {seed}")
    points = sum(check_one(asker, rng, what) for _ in range(8))
    assert points > 20


@pytest.mark.timeout(600)
def test_they_agree_after_rebuild_after_backfill_and_while_hours_go_to_their_days(
    asker: Asker, worker: Database
) -> None:
    rng = random.Random("remade")
    days = Days(worker)
    days.add_past_hours(Stop())
    check_one(asker, rng, "usage")
    today = bucket_start(NOW, "day")
    rebuild(worker, Window(today - timedelta(days=80), today + timedelta(days=2)), lambda _: None)
    for what in ("usage", "reliability"):
        check_one(asker, rng, what)
    drop_dimension(worker, "client")
    keep_dimensions(worker, KEPT)
    asked = {"start": (NOW - timedelta(days=70)).isoformat(), "end": NOW.isoformat(), "groupBy": "client"}
    got, _, _ = asker.ask("usage", asked, org(0))
    assert got["completeSince"]
    backfill(worker, "client", None, lambda _: None)
    got, answer, question = asker.ask("usage", asked, org(0))
    assert "completeSince" not in got
    assert {key_of(point, question) for point in got["series"]} == answer.points.keys()
    for point in got["series"]:
        assert_usage(point, answer.points[key_of(point, question)], point)
