"""A dimension of days alone: what is new is held by the hour, and goes to the days when the hour is over."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

import shared.migrate
from deploy.local.stack import LocalStack
from deploy.local.traffic import Event
from rollup_worker.days import Days
from rollup_worker.dimensions import drop_dimension, keep_dimensions
from rollup_worker.parts import create_tables
from rollup_worker.rollups import Rollups
from rollup_worker.verify import Window, rebuild, verify
from shared.buckets import bucket_start
from shared.metrics import RollupMetrics
from shared.migrate import migrate, migrations
from shared.postgres import Database
from shared.process import Stop
from shared.settings import KeptDimension
from shared.statements import load_statements, with_tables
from tests.benchmarks.dimensions import varied_events
from tests.support import citus_cluster
from tests.support.cuts import Mix, expected, stored
from tests.support.places import new_name
from tests.support.seed import connect, insert_batch

NOW = datetime.now(UTC)
HOUR = bucket_start(NOW, "hour")
DAYS = Window(bucket_start(NOW, "day") - timedelta(days=3), bucket_start(NOW, "day") + timedelta(days=2))
ACTOR = (KeptDimension("actor", keeps_hours=False),)


def mix(count: int, seed: int) -> list[Event]:
    """Events of two days, of the running hour and of the day ahead."""
    events = Mix(seed, start=NOW - timedelta(days=2), end=NOW + timedelta(hours=20)).events(count)
    return events + Mix(seed + 1000, start=HOUR, end=HOUR + timedelta(minutes=59)).events(count // 2)


def add(owner: connection, worker: Database, events: list[Event]) -> None:
    insert_batch(owner, events)
    Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting()


def staged(owner: connection) -> list[datetime]:
    """Return the hours that are held beside the days."""
    with owner.cursor() as cur:
        cur.execute("SELECT DISTINCT bucket_start FROM analytics.rollups_actor_hours ORDER BY 1")
        return [hour.astimezone(UTC) for (hour,) in cur.fetchall()]


def days_until(owner: connection) -> datetime:
    with owner.cursor() as cur:
        cur.execute("SELECT days_until FROM analytics.rollup_dimensions WHERE name = 'actor'")
        [(found,)] = cur.fetchall()
    assert isinstance(found, datetime)
    return found.astimezone(UTC)


def days(owner: connection) -> object:
    return stored(owner, ["actor"], [1440])


def of_days(events: list[Event]) -> object:
    return {key: sums for key, sums in expected(events, ["actor"]).items() if key[2] == 1440}


def agrees(worker: Database) -> bool:
    return verify(worker, DAYS, lambda _: None) == 0


def test_hours_go_to_their_days_and_are_gone_then(owner: connection, worker: Database) -> None:
    keep_dimensions(worker, ACTOR)
    with owner.cursor() as cur:
        cur.execute("UPDATE analytics.rollup_dimensions SET days_until = %s", (HOUR - timedelta(hours=30),))
        cur.execute("UPDATE analytics.rollup_dimensions SET days_until = NULL WHERE name <> 'actor'")
    events: list[Event] = []
    for seed in range(3):
        more = mix(200, seed)
        events += more
        add(owner, worker, more)
    assert staged(owner)[0] < HOUR - timedelta(hours=20)
    assert min(staged(owner)) >= HOUR - timedelta(hours=30)
    assert days(owner) == of_days(events)
    assert agrees(worker)
    Days(worker).add_past_hours(Stop())
    assert days_until(owner) >= HOUR - timedelta(hours=1)
    assert min(staged(owner)) >= days_until(owner)
    assert days(owner) == of_days(events)
    late = mix(200, 7)
    add(owner, worker, late)
    assert min(staged(owner)) >= days_until(owner), "late events go to the days"
    assert days(owner) == of_days(events + late)
    assert agrees(worker)


def test_rebuild_makes_both_again_and_dropping_removes_both(owner: connection, worker: Database) -> None:
    keep_dimensions(worker, ACTOR)
    events = mix(300, 1)
    add(owner, worker, events)
    with owner.cursor() as cur:
        for part in ("rollups_actor_hours", "rollups_actor_days"):
            cur.execute(f"UPDATE analytics.{part} SET invocations = invocations + 1")
    assert not agrees(worker)
    rebuild(worker, DAYS, lambda _: None)
    assert agrees(worker)
    assert days(owner) == of_days(events)
    assert drop_dimension(worker, "actor")
    with owner.cursor() as cur:
        cur.execute("SELECT to_regclass('analytics.rollups_actor_hours')")
        assert cur.fetchone() == (None,)


def test_events_of_many_groups_are_appended_one_by_one(owner: connection, worker: Database) -> None:
    keep_dimensions(worker, (*ACTOR, KeptDimension("client"), KeptDimension("operation")))
    rollups = Rollups(worker, RollupMetrics(CollectorRegistry()))
    events: list[Event] = []
    rows: list[list[int]] = []
    for seed in range(2):
        more = [event | {"operation": "chat"} for event in varied_events(400, seed=seed, orgs=2)]
        events += more
        insert_batch(owner, more)
        rollups.add_waiting()
        with owner.cursor() as cur:
            cur.execute(
                "SELECT (SELECT count(*) FROM analytics.rollups_client_hours),"
                " (SELECT count(*) FROM analytics.rollups_operation_hours)"
            )
            rows += [list(cur.fetchone() or ())]
    assert rows[0][0] < 400, "as long as nothing is known, events are grouped"
    assert rows[1][0] - rows[0][0] == 400
    assert rows[1][1] - rows[0][1] < 400, "one operation makes few"
    assert days(owner) == of_days(events)
    assert agrees(worker)


@pytest.fixture
def empty(stack: LocalStack) -> Iterator[str]:
    """The URL of a database without a schema."""
    name = new_name("_")
    yield stack.create_database(name)
    stack.drop_database(name)


@pytest.mark.skipif(citus_cluster.is_wanted(), reason="a schema of before Citus is not spread")
def test_days_that_were_kept_before_go_on(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [each for each in migrations() if each.version < 20]
    database = Database(empty, application_name="before")
    with monkeypatch.context() as patch:
        patch.setattr(shared.migrate, "migrations", lambda: before)
        migrate(database)
    owner = connect(empty)
    events = mix(200, 1)
    insert_batch(owner, events)
    sql = load_statements("rollups.sql")
    with database.transaction() as cur:
        cur.execute("SELECT analytics.add_rollup_dimension('actor', false, NULL)")
        create_tables(cur)
        span = {"oldest": DAYS.start, "newest": DAYS.end}
        fields = {"with_values": True, "with_metadata": False, "half_hours": []}
        cur.execute(sql["gather_batches"], {"batch_ids": [1], **span, **fields})
        parameters = {"dimension": "actor", "grain": 1440, "since": None, "until": None, "halves": False}
        cur.execute(with_tables(sql["add"], table="rollups_actor_days"), parameters)
        cur.execute(
            "INSERT INTO analytics.model_freshness (org_id, model_id, last_event_at, last_rollup_at)"
            " SELECT org_id, model_id, max(occurred_at), now() FROM gathered GROUP BY 1, 2"
        )
        cur.execute(sql["mark_batches"], {"batch_ids": [1]})
    migrate(database)
    newest = max(datetime.fromisoformat(event["occurredAt"]) for event in events)
    assert days_until(owner) == bucket_start(newest, "hour") + timedelta(hours=1)
    assert days(owner) == of_days(events)
    more = mix(200, 2)
    add(owner, database, more)
    assert days(owner) == of_days(events + more)
    with owner.cursor() as cur:
        cur.execute("SELECT keeps_hours FROM analytics.rollup_dimensions WHERE name = 'actor'")
        assert cur.fetchone() == (False,)
    owner.close()
    database.close()
