"""Percentiles that are kept beside histograms: the same answers before and after, and with late events."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import Event, Router, org
from rollup_worker.percentiles import Percentiles
from rollup_worker.rollups import Rollups
from shared.buckets import bucket_start, rfc3339
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.process import Stop
from tests.support.gateway_app import ADMIN, Gateway
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch

NOW = datetime.now(UTC)
TODAY = bucket_start(NOW, "day")
START = TODAY - timedelta(days=3)
WINDOW = {"start": rfc3339(START), "end": rfc3339(TODAY + timedelta(days=1))}
PATH = f"/orgs/{org(0)}/reliability"
UNKEPT = "percentiles_of IS DISTINCT FROM invocations"


@pytest.fixture
def gateway(environ: dict[str, str]) -> Gateway:
    return Gateway(environ)


def store(owner: connection, worker: Database, events: list[Event]) -> None:
    insert_batch(owner, events)
    assert Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting()


def traffic(count: int = 1500) -> list[Event]:
    """Events of some days and of the running hour; one of three has a first token."""
    events = Router(seed=1, start=START, end=NOW, orgs=1, error_share=0.3).events(count)
    for number, event in enumerate(events):
        event.pop("timeToFirstTokenMs", None)
        if number % 3 == 0:
            event["timeToFirstTokenMs"] = event["latencyMs"] // 2
    return events


def answers(gateway: Gateway) -> list[Any]:
    """All of reliability by hour and by day, as it is answered."""
    asked: list[dict[str, str]] = [{}, {"percentile": "p90"}, {"modelId": "provider/model-1"}]
    return [
        gateway.get(PATH, ADMIN, **WINDOW, granularity=granularity, **more)
        for granularity in ("hour", "day")
        for more in asked
    ]


def through_histograms(gateway: Gateway, granularity: str) -> list[Any]:
    """The points as they come of bins that are merged: that a zone has another name is enough for that."""
    answer = gateway.get(PATH, ADMIN, **WINDOW, granularity=granularity, timeZone="Etc/UTC", percentile="p90")
    return [point | {"bucketStart": point["bucketStart"][:19]} for point in answer["series"]]


def unkept(owner: connection, table: str, where: str = "true") -> int:
    with owner.cursor() as cur:
        cur.execute(f"SELECT count(*) FROM analytics.{table} WHERE {UNKEPT} AND {where}")
        [(count,)] = cur.fetchall()
    return int(count)


def test_answers_are_the_same_whether_percentiles_are_kept_or_computed(
    owner: connection, worker: Database, gateway: Gateway
) -> None:
    store(owner, worker, traffic())
    assert unkept(owner, "hourly_rollups") > 100  # so that it is numpy that computes them
    before = answers(gateway)
    Percentiles(worker).keep(Stop())
    assert unkept(owner, "hourly_rollups", f"bucket_start < '{NOW - timedelta(minutes=70)}'") == 0
    assert unkept(owner, "daily_rollups", f"bucket_start < '{TODAY - timedelta(days=1)}'") == 0
    assert answers(gateway) == before
    for granularity in ("hour", "day"):
        kept = gateway.get(PATH, ADMIN, **WINDOW, granularity=granularity, percentile="p90")["series"]
        shown = [point | {"bucketStart": point["bucketStart"][:19]} for point in kept]
        assert shown == through_histograms(gateway, granularity)
    assert before[1]["series"][0]["latencyPercentileMs"] > 0
    assert any(point["errorCodes"] for point in before[0]["series"])


def test_percentiles_of_a_bucket_that_is_not_over_are_not_kept(owner: connection, worker: Database) -> None:
    events = [event | {"occurredAt": rfc3339(NOW)} for event in traffic(20)]
    store(owner, worker, events)
    Percentiles(worker).keep(Stop())
    for table in ("hourly_rollups", "daily_rollups"):
        assert unkept(owner, table) == len({event["modelId"] for event in events})


def test_late_events_count_at_once_and_their_buckets_are_kept_again(
    owner: connection, worker: Database, gateway: Gateway
) -> None:
    events = traffic(300)
    store(owner, worker, events)
    percentiles = Percentiles(worker)
    percentiles.keep(Stop())
    before = gateway.get(PATH, ADMIN, **WINDOW)
    late = [
        event | {"eventId": f"{event['eventId'][:-4]}beef", "latencyMs": 2_000_000}
        for event in events
        if event["occurredAt"] < rfc3339(TODAY - timedelta(days=1))
    ][:40]
    store(owner, worker, late)
    after = gateway.get(PATH, ADMIN, **WINDOW)
    assert after != before
    assert max(point["latencyMs"]["p99"] for point in after["series"]) > 1_900_000
    stale = unkept(owner, "hourly_rollups", f"bucket_start < '{TODAY - timedelta(days=1)}'")
    assert stale > 0
    Percentiles(worker).keep(Stop())  # a walk of its own, as another day's
    assert unkept(owner, "hourly_rollups", f"bucket_start < '{TODAY - timedelta(days=1)}'") == 0
    assert gateway.get(PATH, ADMIN, **WINDOW) == after


def test_a_row_that_is_being_added_to_is_left_for_the_next_time(
    owner: connection, worker: Database, database: TestDatabase
) -> None:
    store(owner, worker, traffic(300))
    adder = Database(database.rollup_worker_url, application_name="adder")
    old = f"bucket_start < '{NOW - timedelta(minutes=70)}'"
    with adder.transaction() as cur:
        cur.execute(f"SELECT org_id, ctid::text FROM analytics.hourly_rollups WHERE {old} LIMIT 1")
        cur.execute(
            "UPDATE analytics.hourly_rollups SET invocations = invocations + 1"
            " WHERE org_id = %s AND ctid = %s::tid",
            cur.fetchone(),
        )
        Percentiles(worker).keep(Stop())
        assert unkept(owner, "hourly_rollups", old) == 1
    adder.close()
    Percentiles(worker).keep(Stop())
    assert unkept(owner, "hourly_rollups", old) == 0
