"""The reliability answer: within 1% of the exact percentiles, and equal to usage in all it counts."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import falcon.testing
import pytest
from prometheus_client import CollectorRegistry

from deploy.local.traffic import Event, Router, org
from gateway.app import create_app
from rollup_worker.rollups import Rollups
from shared.buckets import bucket_start, rfc3339
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.settings import GatewaySettings, load
from tests.support.places import TestDatabase
from tests.support.seed import connect, insert_batch

NOW = datetime.now(UTC)
HOURS = 6
START = bucket_start(NOW, "hour") - timedelta(hours=HOURS)
END = START + timedelta(hours=HOURS)
ADMIN = {"X-Actor-Subject": "operator", "X-Actor-Roles": "analytics:reliability:read,admin"}

SHAPES: dict[str, Callable[[random.Random], float]] = {
    "heavy tail": lambda rng: rng.paretovariate(1.1) * 20,
    "bimodal": lambda rng: rng.choice((rng.gauss(40, 5), rng.gauss(9_000, 800))),
    "constant": lambda _: 1_234,
    "zeros": lambda _: 0,
    "wide": lambda rng: rng.randrange(2**31),
}

Ask = Callable[..., Any]


@pytest.fixture
def ask(environ: dict[str, str]) -> Ask:
    """Asks the gateway and returns its JSON, decimals exact."""
    settings = load(GatewaySettings, environ | {"DATABASE_URL": environ["GATEWAY_DATABASE_URL"]})
    client = falcon.testing.TestClient(create_app(settings))

    def get(path: str = "reliability", status: int = 200, **params: str) -> Any:
        window = {"start": rfc3339(START), "end": rfc3339(END)}
        url = f"/analytics/v1/orgs/{org(0)}/{path}"
        answer = client.simulate_get(url, params=window | params, headers=ADMIN)
        assert answer.status_code == status, answer.text
        return json.loads(answer.text, parse_float=Decimal)

    return get


@pytest.fixture
def store(database: TestDatabase) -> Iterator[Callable[[list[Event]], None]]:
    """Stores events in batches of 200 and rolls them up."""
    owner = connect(database.owner_url)
    worker = Database(database.rollup_worker_url, application_name="rollups")

    def put(events: list[Event]) -> None:
        for at in range(0, len(events), 200):
            insert_batch(owner, events[at : at + 200])
        rollups = Rollups(worker, RollupMetrics(CollectorRegistry()))
        while rollups.add_waiting():
            pass

    yield put
    owner.close()
    worker.close()


def traffic(count: int, **options: Any) -> list[Event]:
    return Router(seed=count, start=START, end=END, orgs=1, error_share=0.3, **options).events(count)


def nearest_rank(values: list[int], percent: int) -> int:
    return sorted(values)[-(-percent * len(values) // 100) - 1]


def assert_close(latency: dict[str, Any], values: list[int], where: object) -> None:
    for name, value in latency.items():
        exact = nearest_rank(values, int(name[1:]))
        assert abs(value - exact) * 100 <= exact, f"{where} {name}: {value}, exact {exact}"


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_percentiles_are_within_one_percent_for_every_bucket_and_union(
    ask: Ask, store: Callable[[list[Event]], None], shape: str
) -> None:
    rng = random.Random(shape)
    events = [
        event | {"latencyMs": max(0, min(2**31 - 1, int(SHAPES[shape](rng))))} for event in traffic(2_000)
    ]
    store(events)
    model = events[0]["modelId"]
    for granularity in ("minute", "hour", "day"):
        answer = ask(granularity=granularity)
        by_point: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for event in events:
            start = bucket_start(datetime.fromisoformat(event["occurredAt"]), granularity)
            by_point[rfc3339(start), event["modelId"]].append(event["latencyMs"])
        assert {(point["bucketStart"], point["modelId"]) for point in answer["series"]} == by_point.keys()
        for point in answer["series"]:
            place = point["bucketStart"], point["modelId"]
            assert_close(point["latencyMs"], by_point[place], (granularity, *place))
        assert_close(answer["totals"]["latencyMs"], [event["latencyMs"] for event in events], granularity)
        of_model = [event["latencyMs"] for event in events if event["modelId"] == model]
        assert_close(ask(granularity=granularity, modelId=model)["totals"]["latencyMs"], of_model, model)


def test_one_event_is_its_own_percentile(ask: Ask, store: Callable[[list[Event]], None]) -> None:
    store([traffic(1)[0] | {"latencyMs": 98}])
    assert ask(granularity="hour")["totals"]["latencyMs"] == {"p50": 98, "p95": 98, "p99": 98}


def test_the_chosen_percentile_stands_in_every_point_and_in_the_totals(
    ask: Ask, store: Callable[[list[Event]], None]
) -> None:
    events = traffic(500)
    store(events)
    for name in ("p50", "p90", "p95", "p99"):
        answer = ask(granularity="hour", percentile=name)
        assert answer["percentile"] == name
        values = [event["latencyMs"] for event in events]
        assert_close({name: answer["totals"]["latencyPercentileMs"]}, values, "totals")
        assert all("latencyPercentileMs" in point for point in answer["series"])
    assert "percentile" not in ask(granularity="hour")


def test_counts_statuses_and_codes_are_those_of_the_events(
    ask: Ask, store: Callable[[list[Event]], None]
) -> None:
    events = traffic(3_000)
    for at, event in enumerate(events):
        if event["status"] == "error":
            event["errorCode"] = f"CODE_{at % 14:02}"
    store(events)
    statuses = Counter(event["status"] for event in events)
    codes = Counter(event["errorCode"] for event in events if event["status"] == "error")
    ten = sorted(codes.items(), key=lambda item: (-item[1], item[0]))[:10]
    for granularity in ("minute", "hour", "day"):
        answer = ask(granularity=granularity)
        totals = answer["totals"]
        assert totals["invocations"] == 3_000 == sum(point["invocations"] for point in answer["series"])
        assert totals["errorsByStatus"] == {
            name: statuses[name] for name in ("error", "timeout", "throttled")
        }
        assert totals["errors"] == 3_000 - statuses["success"]
        assert totals["errorRate"] == Decimal(totals["errors"]) / 3_000
        assert totals["errorCodes"] == [{"errorCode": code, "count": count} for code, count in ten]
        for point in answer["series"]:
            assert point["errors"] == sum(point["errorsByStatus"].values())
            assert len(point["errorCodes"]) <= 10
            counts = [code["count"] for code in point["errorCodes"]]
            assert counts == sorted(counts, reverse=True)


def test_totals_agree_exactly_with_usage(ask: Ask, store: Callable[[list[Event]], None]) -> None:
    store(traffic(2_500))
    for granularity in ("hour", "day"):
        reliability, usage = (ask(path, granularity=granularity) for path in ("reliability", "usage"))
        for name in ("invocations", "errors"):
            assert reliability["totals"][name] == usage["totals"][name]
        points = [[(point["bucketStart"], point["modelId"], point["invocations"], point["errors"])
                   for point in answer["series"]] for answer in (reliability, usage)]  # fmt: skip
        assert points[0] == points[1]


def test_a_window_without_calls_invents_nothing(ask: Ask) -> None:
    totals = ask(granularity="hour")["totals"]
    assert totals == {
        "invocations": 0,
        "errors": 0,
        "errorRate": None,
        "latencyMs": {"p50": None, "p95": None, "p99": None},
        "errorsByStatus": {"error": 0, "timeout": 0, "throttled": 0},
        "errorCodes": [],
        "timeToFirstTokenMs": {"p50": None, "p95": None, "p99": None},
        "outputTokensPerSecond": None,
    }


def test_minutes_reach_six_hours_and_no_further(ask: Ask) -> None:
    ask(granularity="minute")
    problem = ask(granularity="minute", status=400, end=rfc3339(END + timedelta(microseconds=1)))
    assert problem["errors"] == [
        {"field": "end", "reason": "is more than 6 hours after start, the most for granularity minute"}
    ]
    assert ask(percentile="p42", status=400)["errors"][0]["field"] == "percentile"
