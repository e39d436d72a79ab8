"""Usage and freshness: exactly what the rollups say, in the form that openapi.yaml promises."""

import random
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from psycopg2.extensions import connection

from deploy.local.traffic import MODELS, Router, org
from shared.buckets import bucket_start
from tests.support.gateway_app import (
    ADMIN,
    DOCUMENT,
    OWNER,
    PREFIX,
    Gateway,
    read,
    utc_text,
)
from tests.support.seed import insert_batch

NOW = datetime(2026, 11, 20, 10, 17, 23, 456789, tzinfo=UTC)
EXACT = Context(prec=200)
SUMS = ("invocations", "errors", "inputTokens", "outputTokens", "costEstimateCents")
PARTS = ("cachedInputTokens", "cacheWriteInputTokens", "reasoningTokens")
NO_PARTS = dict.fromkeys(PARTS, 0)
Rows = dict[tuple[datetime, str], list[Any]]

_INSERT = """
    INSERT INTO analytics.{table}_rollups (org_id, bucket_start, model_id, invocations, errors, status_error,
        status_timeout, status_throttled, input_tokens, output_tokens, cost_estimate_cents, latency_bins,
        latency_counts)
    VALUES (%s, %s, %s, %s, %s, %s, 0, 0, %s, %s, %s, '{{1}}', ARRAY[%s]::bigint[])"""


@pytest.fixture
def gateway(environ: dict[str, str]) -> Gateway:
    return Gateway(environ, clock=lambda: NOW)


def put(owner: connection, table: str, org_id: str, rows: Rows) -> None:
    """Insert rollups: invocations, errors, tokens in and out, cost by bucket and model."""
    with owner.cursor() as cur:
        for (start, model), (calls, errors, tokens_in, tokens_out, cost) in rows.items():
            values = (org_id, start, model, calls, errors, errors, tokens_in, tokens_out, cost, calls)
            cur.execute(_INSERT.format(table=table), values)


def made_up(seed: int, hours: int, models: tuple[str, ...] = MODELS) -> Rows:
    """Return hourly rows around the unfinished hour of NOW, some of them already of tomorrow."""
    rng = random.Random(seed)
    this_hour = bucket_start(NOW, "hour")
    rows: Rows = {}
    for back in range(-20, hours):
        for model in models:
            if rng.random() < 0.7:
                calls = rng.randrange(1, 10**6)
                cost = Decimal(rng.randrange(10**22)).scaleb(-10)
                tokens = (rng.randrange(10**12), rng.randrange(10**12))
                rows[this_hour - timedelta(hours=back), model] = [calls, rng.randrange(calls), *tokens, cost]
    return rows


def by_day(rows: Rows) -> Rows:
    """Add hours up to days."""
    days: Rows = defaultdict(lambda: [0, 0, 0, 0, Decimal(0)])
    for (start, model), sums in rows.items():
        day = days[bucket_start(start, "day"), model]
        day[:4] = [before + more for before, more in zip(day, sums[:4], strict=False)]
        day[4] = EXACT.add(day[4], sums[4])
    return days


def in_series(answer: Any) -> Rows:
    return {
        (datetime.fromisoformat(point["bucketStart"]), point["modelId"]): [point[name] for name in SUMS]
        for point in answer["series"]
    }


def total(rows: Rows) -> list[Any]:
    sums: list[Any] = [0, 0, 0, 0, Decimal(0)]
    for row in rows.values():
        sums = [EXACT.add(sums[4], row[4]) if at == 4 else sums[at] + row[at] for at in range(5)]
    return sums


def test_usage_by_hour_and_by_day_is_what_the_rollups_hold(owner: connection, gateway: Gateway) -> None:
    hours = made_up(1, hours=60)
    put(owner, "hourly", org(0), hours)
    put(owner, "daily", org(0), by_day(hours))
    put(owner, "hourly", org(1), made_up(2, hours=60, models=("canary",)))
    put(owner, "daily", org(1), by_day(made_up(2, hours=60, models=("canary",))))
    first_day = bucket_start(NOW, "day") - timedelta(days=1)
    ends = {"hour": bucket_start(NOW, "hour") + timedelta(hours=1), "day": first_day + timedelta(days=2)}
    for granularity, stored in (("hour", hours), ("day", by_day(hours))):
        wanted = {key: sums for key, sums in stored.items() if first_day <= key[0] < ends[granularity]}
        assert {bucket_start(NOW, granularity), ends[granularity]} <= {start for start, _ in stored}
        answer = gateway.get(
            f"/orgs/{org(0)}/usage", start=utc_text(first_day), end=utc_text(NOW), granularity=granularity
        )
        assert in_series(answer) == wanted
        order = [(point["bucketStart"], point["modelId"].encode()) for point in answer["series"]]
        assert order == sorted(order)
        assert [answer["totals"][name] for name in SUMS] == total(wanted)
        assert (answer["start"], answer["end"]) == (utc_text(first_day), utc_text(ends[granularity]))
        assert (answer["orgId"], answer["granularity"]) == (org(0), granularity)
        assert "modelId" not in answer


def test_usage_of_one_model_is_that_model_s_alone(owner: connection, gateway: Gateway) -> None:
    rows = made_up(3, hours=5, models=("a", "A", "a ", "a'; --", "\u212b\U0001f600"))
    put(owner, "hourly", org(0), rows)
    start = bucket_start(NOW, "hour") - timedelta(hours=4)
    for model in ("a", "A", "a ", "a'; --", "\u212b\U0001f600", "nobody's"):
        answer = gateway.get(
            f"/orgs/{org(0)}/usage",
            start=utc_text(start),
            end=utc_text(NOW),
            granularity="hour",
            modelId=model,
        )
        wanted = {key: sums for key, sums in rows.items() if key[1] == model and start <= key[0] < NOW}
        assert in_series(answer) == wanted
        assert [answer["totals"][name] for name in SUMS] == total(wanted)
        assert answer["modelId"] == model


def test_sums_beyond_64_bits_and_28_digits_stay_exact(owner: connection, gateway: Gateway) -> None:
    day = bucket_start(NOW, "day")
    huge = Decimal("123456789012345678901234567890.0000000001")
    rows: Rows = {
        (day - timedelta(days=back), "m"): [2**62, 2**61, 2**63 + back, 10**30 + 1, huge] for back in range(3)
    }
    put(owner, "daily", org(0), rows)
    start = utc_text(day - timedelta(days=2))
    answer = gateway.get(f"/orgs/{org(0)}/usage", start=start, end=utc_text(NOW))
    assert in_series(answer) == rows
    assert answer["totals"] == {
        "invocations": 3 * 2**62,
        "errors": 3 * 2**61,
        "inputTokens": 3 * 2**63 + 3,
        "outputTokens": 3 * 10**30 + 3,
        "costEstimateCents": Decimal("370370367037037036703703703670.0000000003"),
        **NO_PARTS,
    }


def test_costs_are_plain_json_numbers(owner: connection, gateway: Gateway) -> None:
    costs = ["0", "0.0000000001", "10.0000000000", "1000000"]
    hour = bucket_start(NOW, "hour")
    rows: Rows = {(hour, f"m{at}"): [1, 0, 0, 0, Decimal(cost)] for at, cost in enumerate(costs)}
    put(owner, "hourly", org(0), rows)
    query = f"start={utc_text(hour)}&end={utc_text(NOW)}&granularity=hour"
    text = gateway.call("GET", f"{PREFIX}/orgs/{org(0)}/usage", query=query).text
    for written in ("0", "0.0000000001", "10", "1000000"):
        assert f'"costEstimateCents":{written},' in text
    assert "1000010.0000000001" in text


def test_an_organisation_without_usage_has_an_empty_series_and_zero_totals(gateway: Gateway) -> None:
    answer = gateway.get(f"/orgs/{org(0)}/usage", start="2026-11-01T00:00:00Z", end="2026-11-02T00:00:00Z")
    assert answer["series"] == []
    assert answer["totals"] == dict.fromkeys((*SUMS, *PARTS), 0)
    assert answer["freshness"] == {
        "status": "unknown",
        "lagSeconds": None,
        "lastEventAt": None,
        "lastRollupAt": None,
    }


@pytest.mark.parametrize("query", ["", "start=0001-01-01T00:00:00Z&end=0001-01-01T00:00:01Z",
    "start=9999-12-30T00:00:00Z&end=9999-12-31T00:00:00Z&granularity=hour"])  # fmt: skip
def test_the_calendar_s_ends_are_answered_or_refused(gateway: Gateway, query: str) -> None:
    answer = gateway.call("GET", f"{PREFIX}/orgs/{org(0)}/usage", query=query)
    assert answer.status_code == (200 if query else 400)


def test_an_unchanged_answer_is_not_sent_twice(owner: connection, gateway: Gateway) -> None:
    path = f"{PREFIX}/orgs/{org(0)}/usage"
    query = f"start={utc_text(bucket_start(NOW, 'day'))}&end={utc_text(NOW)}"
    first = gateway.call("GET", path, query=query)
    tag = first.headers["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = gateway.call("GET", path, query=query, headers={"If-None-Match": given})
        assert again.status_code == 304
        assert again.headers["etag"] == tag
    for given in ('"other"', tag.strip('"') + "x", "", '"', "W/"):
        answer = gateway.call("GET", path, query=query, headers={"If-None-Match": given})
        assert (answer.status_code, answer.content) == (200, first.content)
    put(owner, "daily", org(0), {(bucket_start(NOW, "day"), "m"): [1, 0, 1, 1, Decimal(1)]})
    changed = gateway.call("GET", path, query=query, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    assert "private" in changed.headers["cache-control"]


STATUSES = {0: "fresh", 299: "fresh", 300: "stale", 599: "stale", 600: "delayed", 86_400: "delayed"}


def test_freshness_is_told_from_the_age_of_the_oldest_event_the_rollups_do_not_show(
    owner: connection, environ: dict[str, str]
) -> None:
    router = Router(seed=4, start=NOW - timedelta(hours=1), end=NOW, models=("a",))
    gateway = Gateway(environ, clock=lambda: NOW)
    for number, (lag_seconds, status) in enumerate(STATUSES.items()):
        events = [event | {"orgId": org(number)} for event in router.events(5)]
        insert_batch(owner, events, NOW - timedelta(seconds=lag_seconds))
        insert_batch(owner, [router.event() | {"orgId": org(number), "modelId": "b"}], NOW)
        answer = gateway.get(f"/orgs/{org(number)}/freshness", ADMIN)
        assert (answer["status"], answer["lagSeconds"], answer["asOf"]) == (
            status,
            lag_seconds,
            utc_text(NOW),
        )
        first, second = answer["entries"]
        assert first == {
            "modelId": "a",
            "lastEventAt": utc_text(max(datetime.fromisoformat(event["occurredAt"]) for event in events)),
            "lastRollupAt": None,
            "lagSeconds": lag_seconds,
            "status": status,
        }
        assert (second["modelId"], second["lagSeconds"], second["status"]) == ("b", 0, "fresh")


def test_an_idle_organisation_has_no_lag_and_an_empty_one_is_unknown(
    owner: connection, gateway: Gateway
) -> None:
    with owner.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.model_freshness VALUES (%s, 'm', %s, %s)",
            (org(0), NOW - timedelta(days=30), NOW - timedelta(days=29)),
        )
    answer = gateway.get(f"/orgs/{org(0)}/freshness")
    assert (answer["status"], answer["lagSeconds"]) == ("fresh", 0)
    assert answer["entries"][0]["lastRollupAt"] == utc_text(NOW - timedelta(days=29))
    answer = gateway.get(f"/orgs/{org(1)}/freshness", ADMIN)
    assert (answer["status"], answer["lagSeconds"], answer["entries"]) == ("unknown", None, [])


def test_freshness_is_computed_again_when_its_time_in_the_cache_is_over(
    owner: connection, environ: dict[str, str]
) -> None:
    event = Router(seed=5, start=NOW - timedelta(hours=1), end=NOW, orgs=1).event()
    insert_batch(owner, [event], NOW)
    times = [NOW]
    gateway = Gateway(environ, clock=lambda: times[-1], FRESHNESS_CACHE_TTL="400ms")
    path = f"/orgs/{org(0)}/freshness"
    asked = time.monotonic()
    assert gateway.get(path)["lagSeconds"] == 0
    times.append(NOW + timedelta(seconds=700))
    again = gateway.get(path)
    if time.monotonic() - asked < 0.4:
        assert (again["lagSeconds"], again["asOf"]) == (0, utc_text(NOW))
    time.sleep(0.45)
    assert gateway.get(path)["status"] == "delayed"


def test_the_document_is_served_and_its_schemas_are_sound(lone_gateway: Gateway) -> None:
    answer = lone_gateway.call("GET", f"{PREFIX}/openapi.json", {})
    served = read(answer)
    assert served["openapi"].startswith("3.1")
    assert served["paths"].keys() == DOCUMENT["paths"].keys()
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    known = {"If-None-Match": answer.headers["etag"]}
    assert lone_gateway.call("GET", f"{PREFIX}/openapi.json", {}, headers=known).status_code == 304


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/analytics/v1", 404),
        ("GET", f"{PREFIX}/orgs/{org(0)}/usage/", 404),
        ("GET", f"{PREFIX}/orgs/{org(0)}/nothing", 404),
        ("DELETE", f"{PREFIX}/orgs/{org(0)}/usage", 405),
        ("GET", f"{PREFIX}/events/validate", 405),
        ("HEAD", f"{PREFIX}/events/validate", 405),
    ],
)
def test_what_is_not_there_is_a_problem_too(
    lone_gateway: Gateway, method: str, path: str, status: int
) -> None:
    answer = lone_gateway.call(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    if status == 405:
        assert answer.headers["allow"]


def test_a_request_id_is_taken_over_if_it_is_fit_to_be_logged(lone_gateway: Gateway) -> None:
    path = f"{PREFIX}/orgs/{org(0)}/usage"
    answer = lone_gateway.call("GET", path, OWNER, headers={"X-Request-ID": "abc-1.2:3_4"})
    assert answer.headers["x-request-id"] == "abc-1.2:3_4"
    for unfit in ("", "a b", "a" * 129, "a\tb", "\xe9"):
        answer = lone_gateway.call("GET", path, OWNER, headers={"X-Request-ID": unfit})
        assert answer.headers["x-request-id"] not in {"", unfit}


def test_probes_need_no_actor(gateway: Gateway) -> None:
    for path in ("healthz", "readyz"):
        answer = gateway.call("GET", f"{PREFIX}/status/{path}", {})
        assert answer.status_code == 200
        assert read(answer)["status"] == "ok"
