"""How large answers may be, and how many large ones at once: refused with what is possible."""

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from falcon import testing
from psycopg2.extensions import connection

from deploy.local.traffic import org
from gateway import database as database_module
from gateway.app import create_app
from gateway.cuts import reading, send
from rollup_worker.dimensions import keep_dimensions
from shared.errors import DatabaseUnavailable
from shared.postgres import Database
from shared.settings import GatewaySettings, KeptDimension, load
from tests.support.gateway_app import ADMIN, PREFIX, Gateway, assert_problem, read
from tests.support.places import TestDatabase

ORG = f"/orgs/{org(0)}"
QUARTER = {"start": "2026-03-01T00:00:00Z", "end": "2026-06-01T00:00:00Z", "granularity": "hour"}
ONE_DAY = {**QUARTER, "end": "2026-03-02T00:00:00Z"}
HOURS = 92 * 24
BOUND = {**ADMIN, "X-Actor-Orgs": org(0)}
"""Whose answers need no audit row, which is written on a connection of its own."""


def query(window: dict[str, str], **more: str) -> str:
    return "&".join(f"{name}={value}" for name, value in {**window, **more}.items())


def fill(owner: connection, *, models: int, bins: int = 1, hours: int = HOURS) -> None:
    """Make hourly rollups of organisation 0: each model in each hour, with so many distinct latencies."""
    with owner.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.hourly_rollups"
            " (org_id, bucket_start, model_id, invocations, errors, status_error, status_timeout,"
            " status_throttled, input_tokens, output_tokens, cost_estimate_cents, latency_bins,"
            " latency_counts)"
            " SELECT %s, '2026-03-01Z'::timestamptz + h * interval '1 hour', 'model-' || m, %s, 0, 0, 0, 0,"
            " 1, 1, 1, (SELECT array_agg(b) FROM generate_series(1, %s) b),"
            " (SELECT array_agg(1) FROM generate_series(1, %s))"
            " FROM generate_series(0, %s - 1) h, generate_series(1, %s) m",
            (org(0), bins, bins, bins, hours, models),
        )
        cur.execute("ANALYZE analytics.hourly_rollups")


@pytest.fixture
def gateway(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """A gateway with one connection: a read that holds one must not wait for another, or all would wait."""
    monkeypatch.setattr(database_module, "POOL_SIZE", 1)
    return Gateway(environ)


@pytest.mark.parametrize("path", ["usage", "reliability"])
def test_more_than_200_000_points_are_a_400_that_says_how_many_and_what_makes_it_fewer(
    owner: connection, gateway: Gateway, path: str
) -> None:
    fill(owner, models=100)
    answer = gateway.call("GET", f"{PREFIX}{ORG}/{path}", BOUND, query=query(QUARTER))
    assert_problem(answer, 400)
    detail = read(answer)["detail"]
    assert f"{HOURS * 100:,} points" in detail
    assert "200,000" in detail
    for way in ("window", "modelId", "granularity=day"):
        assert way in detail
    assert len(gateway.get(f"{ORG}/{path}", BOUND, **ONE_DAY)["series"]) == 2400
    assert len(gateway.get(f"{ORG}/{path}", BOUND, **QUARTER, modelId="model-7")["series"]) == HOURS


def test_a_cut_by_a_dimension_of_too_many_points_says_how_many_and_what_makes_it_fewer(
    owner: connection, database: TestDatabase, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_POINTS", 2000)
    monkeypatch.setattr(send, "MAX_SMALL_BYTES", 1000)  # reliability counts points where it is larger
    worker = Database(database.rollup_worker_url, application_name="rollups")
    keep_dimensions(worker, (KeptDimension("client"),))
    worker.close()
    fill(owner, models=1, bins=92, hours=24)
    with owner.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.rollups"
            " SELECT org_id, 'client', 60, bucket_start, model_id, 'client-' || v,"
            " 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ARRAY[v]::smallint[], '{1}', '{}', '{}'"
            " FROM analytics.hourly_rollups, generate_series(1, 91) v"
        )
    for path in ("usage", "reliability"):
        asked = query(ONE_DAY, groupBy="model,client")
        for headers in ({}, {"Accept": "text/csv"}):
            answer = gateway.call("GET", f"{PREFIX}{ORG}/{path}", BOUND, query=asked, headers=headers)
            assert_problem(answer, 400)
            detail = read(answer)["detail"]
            assert f"up to {24 * 92:,} points" in detail  # the groups, and one without a value an hour
            for way in ("window", "top=100 or less", "granularity=day", "groupBy without model", "modelId"):
                assert way in detail
        found = gateway.get(f"{ORG}/{path}", BOUND, **ONE_DAY, groupBy="client", clientId="client-1")
        assert len(found["series"]) == 24


@pytest.mark.parametrize("path", ["usage", "reliability"])
def test_a_large_answer_within_the_limit_has_every_point_and_the_same_totals(
    owner: connection, gateway: Gateway, path: str
) -> None:
    fill(owner, models=12, bins=2)
    found = gateway.get(f"{ORG}/{path}", BOUND, **QUARTER)
    assert len(found["series"]) == HOURS * 12
    assert found["totals"]["invocations"] == HOURS * 12 * 2
    assert sum(point["invocations"] for point in found["series"]) == HOURS * 12 * 2


@pytest.mark.parametrize(("days", "percentiles_of", "min_bytes"), [(92, 200, 30_000_000), (12, 0, 4_000_000)])
def test_days_by_hour_of_50_models_of_200_latencies_are_streamed_in_bounded_memory(
    owner: connection, client: testing.TestClient, days: int, percentiles_of: int, min_bytes: int
) -> None:
    """With the percentiles that are kept, and with those of histograms."""
    fill(owner, models=50, bins=200, hours=24 * days)
    with owner.cursor() as cur:
        cur.execute(
            "UPDATE analytics.hourly_rollups SET percentiles = %s, percentiles_of = %s",
            ([1, 2, 3, 4, None, None, None, None], percentiles_of),
        )
    tracemalloc.start()
    seen, body = under_way(client, "reliability", QUARTER)
    size = sum(len(part) for part in body)
    body.close()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen.status.startswith("200")
    assert "etag" not in dict(seen.headers)
    assert size > min_bytes
    assert peak_bytes < 64_000_000


@pytest.fixture
def client(environ: dict[str, str]) -> testing.TestClient:
    """A client that reads an answer only when it is asked to."""
    values = {**environ, "DATABASE_URL": environ["GATEWAY_DATABASE_URL"]}
    return testing.TestClient(create_app(load(GatewaySettings, values)))


def under_way(client: testing.TestClient, path: str, window: dict[str, str], **actor: str) -> Any:
    """Ask for an answer and read none of it yet."""
    who = {"X-Actor-Subject": actor.get("subject", "ann"), "X-Actor-Roles": "admin"}
    url = f"{PREFIX}/orgs/{actor.get('org_id', org(0))}/{path}"
    environ = testing.create_environ(path=url, query_string=query(window), headers=who)
    seen = testing.StartResponseMock()
    return seen, client.app(environ, seen)


@pytest.fixture
def streams(owner: connection, client: testing.TestClient) -> Iterator[Any]:
    """Opens incident exports that nobody reads, closed at the end."""
    with ExitStack() as opened:

        def open_stream(subject: str, org_number: int) -> tuple[str, dict[str, str], bytes]:
            window = {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"}
            seen, body = under_way(
                client, "incidents/export", window, subject=subject, org_id=org(org_number)
            )
            if hasattr(body, "close"):
                opened.callback(body.close)
                return seen.status, seen.headers_dict, b""
            return seen.status, seen.headers_dict, b"".join(body)

        yield open_stream


def test_one_stream_more_than_an_actor_may_have_is_a_429_that_says_so_and_others_go_on(streams: Any) -> None:
    assert [streams("ann", at)[0] for at in range(2)] == ["200 OK"] * 2
    status, headers, body = streams("ann", 2)
    assert status.startswith("429")
    assert int(headers["retry-after"]) > 0
    assert "subject" in json.loads(body)["detail"]
    assert "incident exports" in json.loads(body)["detail"]
    assert streams("bob", 0)[0] == "200 OK"
    assert "organisation" not in json.loads(body)["detail"]


def test_one_stream_more_than_an_organisation_or_all_may_have_is_a_429_too(streams: Any) -> None:
    assert [streams(f"of-{at}", 0)[0] for at in range(2)] == ["200 OK"] * 2
    status, _, body = streams("another", 0)
    assert (status[:3], "organisation" in json.loads(body)["detail"]) == ("429", True)
    assert streams("of-1", 1)[0] == "200 OK"
    status, _, body = streams("last", 9)
    assert (status[:3], "gateway process" in json.loads(body)["detail"]) == ("429", True)


def test_a_stream_that_ended_makes_room(client: testing.TestClient, environ: dict[str, str]) -> None:
    window = {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"}
    for _ in range(5):
        seen, body = under_way(client, "incidents/export", window)
        assert seen.status == "200 OK"
        assert b"".join(body).startswith(b"event_id,")
        body.close()


def test_a_second_large_answer_of_one_actor_waits_and_small_ones_go_on(
    owner: connection, client: testing.TestClient
) -> None:
    fill(owner, models=12)
    first, body = under_way(client, "usage", QUARTER)
    assert first.status == "200 OK"
    second, refused = under_way(client, "usage", QUARTER)
    assert second.status.startswith("429")
    assert "large answers" in json.loads(b"".join(refused))["detail"]
    assert under_way(client, "usage", ONE_DAY)[0].status == "200 OK"
    assert len(json.loads(b"".join(body))["series"]) == HOURS * 12
    body.close()
    third, again = under_way(client, "usage", QUARTER)
    assert third.status == "200 OK"
    again.close()


def test_an_answer_whose_database_fails_half_way_ends_with_that_and_the_next_is_whole(
    owner: connection, client: testing.TestClient
) -> None:
    fill(owner, models=12)
    seen, body = under_way(client, "usage", QUARTER)
    assert seen.status == "200 OK"
    with owner.cursor() as cur:
        cur.execute(
            "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
            " WHERE usename = 'gateway' AND datname = current_database()"
        )
    with pytest.raises(DatabaseUnavailable):
        b"".join(body)
    assert under_way(client, "usage", ONE_DAY)[0].status == "200 OK"


def fill_freshness(owner: connection, models: int) -> None:
    with owner.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.model_freshness"
            " SELECT %s, 'model-' || m, '2026-03-01Z'::timestamptz + m * interval '1 s', '2026-03-02Z'"
            " FROM generate_series(1, %s) m",
            (org(0), models),
        )


def test_freshness_has_the_1000_models_with_the_newest_events_and_says_that_there_are_more(
    owner: connection, gateway: Gateway, environ: dict[str, str]
) -> None:
    fill_freshness(owner, 1000)
    assert gateway.get(f"{ORG}/freshness", ADMIN)["truncated"] is False
    with owner.cursor() as cur:
        cur.execute("DELETE FROM analytics.model_freshness")
    fill_freshness(owner, 20_000)
    with redis.Redis.from_url(environ["REDIS_URL"]) as cache:
        cache.flushall()
        found = gateway.get(f"{ORG}/freshness", ADMIN)
        assert [entry["modelId"] for entry in found["entries"]] == [
            f"model-{at}" for at in range(20_000, 19_000, -1)
        ]
        assert found["truncated"] is True
        assert (found["status"], found["lagSeconds"]) == ("fresh", 0)
        summary = gateway.get(f"{ORG}/usage", ADMIN, **ONE_DAY)["freshness"]
        assert summary["lastEventAt"] == found["entries"][0]["lastEventAt"]
        sizes = [len(str(cache.get(key))) for key in cache.scan_iter()]
        assert len(sizes) == 2
        assert max(sizes) < 200_000
