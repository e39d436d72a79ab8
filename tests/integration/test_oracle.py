"""Random questions about random events, answered by the service and by an oracle: both must agree exactly.

They agree whatever has happened to the events meanwhile: rollup workers killed and made again, retention.
"""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.api import wait_until
from deploy.local.stack import LocalStack
from deploy.local.traffic import org
from rollup_worker.days import Days
from rollup_worker.dimensions import drop_dimension, keep_dimensions
from rollup_worker.remake import backfill
from rollup_worker.rollups import Rollups
from rollup_worker.upkeep import Upkeep
from rollup_worker.verify import Window, rebuild
from shared.buckets import bucket_start
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.process import Stop
from shared.settings import RollupWorkerSettings, load
from tests.support.asker import WHAT, Asker
from tests.support.fleet import Fleet
from tests.support.gateway_app import Gateway
from tests.support.oracle import MEMBERS, Event
from tests.support.places import TestDatabase, new_name, redis_database
from tests.support.questions import KEPT, NOW, ORGS, PART_HOUR_ZONES, ZONES, a_question, an_event
from tests.support.seed import connect, insert_batch
from tests.support.shared_stack import TEMPLATE

pytestmark = pytest.mark.timeout(600)

DAY = timedelta(days=1)
TODAY = bucket_start(NOW, "day")


def some_events(number: int = 800) -> list[Event]:
    rng = random.Random(20261120)
    return [an_event(rng) for _ in range(number)]


def publish(owner: connection, events: list[Event]) -> None:
    for at in range(0, len(events), 300):
        insert_batch(owner, events[at : at + 300], NOW)


def roll_up(worker: Database) -> None:
    rollups = Rollups(worker, RollupMetrics(CollectorRegistry()))
    while rollups.add_waiting():
        pass


@pytest.fixture(scope="module")
def settled(stack: LocalStack) -> Iterator[Asker]:
    """Events that are all rolled up, shared by the tests that only ask."""
    name = new_name("_")
    url = stack.create_database(name, TEMPLATE)
    urls = stack.process_urls(url)
    events = some_events()
    with (
        closing(Database(urls["ROLLUP_WORKER_DATABASE_URL"], application_name="rollups")) as worker,
        closing(connect(url)) as owner,
    ):
        keep_dimensions(worker, KEPT)
        publish(owner, events)
        roll_up(worker)
    servers = {"REDIS_URL": redis_database(stack.settings["REDIS_URL"])}
    yield Asker(Gateway(stack.settings | urls | servers, clock=lambda: NOW), events)
    stack.drop_database(name)


@pytest.fixture
def asker(environ: dict[str, str], owner: connection, worker: Database) -> Asker:
    """Events of the test's own, all rolled up."""
    events = some_events()
    keep_dimensions(worker, KEPT)
    publish(owner, events)
    roll_up(worker)
    return Asker(Gateway(environ, clock=lambda: NOW), events)


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("seed", range(2))
def test_the_service_agrees_with_the_oracle(settled: Asker, what: str, seed: int) -> None:
    assert settled.check_some(random.Random(f"{what} {seed}"), what, 25) > 100


def test_a_filter_gives_the_row_of_its_group(settled: Asker) -> None:
    window = {"start": (NOW - 40 * DAY).isoformat(), "end": NOW.isoformat(), "granularity": "total"}
    for dimension in (*MEMBERS, "metadata.region"):
        member = MEMBERS.get(dimension, dimension)
        for what in WHAT:
            grouped = settled.ask(what, window | {"groupBy": dimension}, org(0))["series"]
            for point in grouped[:4]:
                if point[member] is not None:
                    asked = window | {"groupBy": "none", member: point[member]}
                    one = settled.ask(what, asked, org(0))
                    assert one["series"] == [{name: point[name] for name in point if name != member}]


def test_top_and_all_others_are_what_there_is_without_top(settled: Asker) -> None:
    rng = random.Random("top")
    for what in WHAT:
        for _ in range(6):
            asked = a_question(rng, platform=False, reliability=what == "reliability")
            asked = {"groupBy": "model"} | {name: asked[name] for name in asked if name != "compare"}
            if asked["groupBy"] == "none":
                continue
            everything = settled.ask(what, {name: asked[name] for name in asked if name != "top"}, org(0))
            top = settled.ask(what, asked | {"top": "2"}, org(0))
            assert top["totals"] == everything["totals"], asked
            assert calls_by_bucket(top) == calls_by_bucket(everything), asked
            largest = [point for point in top["series"] if "other" not in point]
            assert all(point in everything["series"] for point in largest), asked


def calls_by_bucket(answer: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for point in answer["series"]:
        found[point["bucketStart"]] += point["invocations"]
    return found


def test_a_time_zone_moves_boundaries_and_nothing_else(settled: Asker) -> None:
    """The same hours have the same totals, by whatever days of whatever zone they are read."""
    asked = {"start": (NOW - 60 * DAY).isoformat(), "end": NOW.isoformat(), "groupBy": "none"}
    for what in WHAT:
        for zone in sorted(set(ZONES) - PART_HOUR_ZONES):
            local = settled.ask(what, asked | {"timeZone": zone}, org(0))
            same = {"start": local["start"], "end": local["end"], "granularity": "total"}
            assert settled.ask(what, asked | same, org(0))["totals"] == local["totals"], zone


def test_they_agree_after_a_worker_was_killed_while_it_added_and_another_took_over(
    environ: dict[str, str], owner: connection, database: TestDatabase, tmp_path: Path
) -> None:
    events = some_events()
    asker = Asker(Gateway(environ, clock=lambda: NOW), events[:300])
    wanted = ",".join(each.name if each.keeps_hours else f"{each.name}:day" for each in KEPT)
    rng = random.Random("killed")
    with (
        closing(Fleet(environ | {"ROLLUP_DIMENSIONS": wanted}, tmp_path)) as fleet,
        closing(connect(database.owner_url)) as holder,
    ):
        killed = fleet.start("rollup_worker").wait_ready()
        publish(owner, events[:300])
        wait_until(lambda: pending(owner) == 0, seconds=60, what="the first batch")
        # Freshness is noted after everything was added and before the batches are marked.
        holder.autocommit = False
        with holder.cursor() as cur:
            cur.execute("UPDATE analytics.model_freshness SET last_event_at = last_event_at")
        publish(owner, events[300:])
        wait_until(lambda: adds(owner), seconds=60, what="a worker in the middle of adding")
        killed.kill()
        for what in WHAT:
            asker.check_some(rng, what, 5)
        holder.rollback()
        fleet.start("rollup_worker")
        wait_until(lambda: pending(owner) == 0, seconds=60, what="the other worker")
    asker.events = events
    for what in WHAT:
        asker.check_some(rng, what, 15)


def pending(owner: connection) -> int:
    with owner.cursor() as cur:
        cur.execute("SELECT count(*) FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL")
        [(count,)] = cur.fetchall()
    return int(count)


def adds(owner: connection) -> bool:
    with owner.cursor() as cur:
        cur.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'rollup_worker rollups' AND state = 'active'"
            " AND query LIKE '%INSERT INTO analytics.model_freshness%')"
        )
        return cur.fetchall() == [(True,)]


def test_they_agree_after_rebuild_after_backfill_and_while_hours_go_to_their_days(
    asker: Asker, worker: Database
) -> None:
    rng = random.Random("remade")
    Days(worker).add_past_hours(Stop())
    asker.check_some(rng, "usage", 3)
    for first, last in ((30, 27), (2, -2)):
        rebuild(worker, Window(TODAY - first * DAY, TODAY - last * DAY), lambda _: None)
    for what in WHAT:
        asker.check_some(rng, what, 8)
    drop_dimension(worker, "client")
    keep_dimensions(worker, KEPT)
    asked = {"start": (NOW - 75 * DAY).isoformat(), "end": (NOW + 2 * DAY).isoformat(), "groupBy": "client"}
    for what in WHAT:
        assert asker.ask(what, asked, org(0))["completeSince"]
    backfill(worker, "client", None, lambda _: None)
    for what in WHAT:
        for number in range(ORGS):
            asker.check(what, asked, org(number))
        asker.check(what, asked | {"timeZone": "Asia/Kolkata", "top": "3"}, None)


def test_what_retention_left_agrees_and_what_is_gone_is_said(
    asker: Asker, worker: Database, database: TestDatabase, owner: connection
) -> None:
    rng = random.Random("retention")
    environ = {
        "DATABASE_URL": database.rollup_worker_url,
        "EVENT_RETENTION": "20d",
        "ROLLUP_RETENTION": "40d",
    }
    settings = load(RollupWorkerSettings, environ)
    Upkeep(worker, settings, clock=lambda: NOW).run(Stop())
    asker.rollups_since, asker.events_since = TODAY - 40 * DAY, TODAY - 20 * DAY
    # One comes so late that its day is gone: it is no sum of a day that has no other.
    insert_batch(owner, [an_event(rng) | {"occurredAt": f"{TODAY - 45 * DAY:%Y-%m-%d}T12:00:00Z"}], NOW)
    roll_up(worker)
    for what in WHAT:
        asker.check_some(rng, what, 30)
