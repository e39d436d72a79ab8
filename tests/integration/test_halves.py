"""First halves of the hours in which days of zones of :30 begin: kept, verified, made again; since when."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

import shared.migrate
from deploy.local.stack import LocalStack
from deploy.local.traffic import Event
from rollup_worker import merge
from rollup_worker.days import Days
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.merge import Merge
from rollup_worker.rollups import Rollups
from rollup_worker.verify import Window, rebuild, verify
from shared.buckets import bucket_start
from shared.metrics import RollupMetrics
from shared.migrate import migrate, migrations
from shared.pieces import HALF_HOURS
from shared.postgres import Database
from shared.process import Stop
from shared.settings import KeptDimension
from tests.support import citus_cluster
from tests.support.cuts import Mix, value_of
from tests.support.places import new_name
from tests.support.seed import connect, insert_batch

NOW = datetime.now(UTC)
TODAY = bucket_start(NOW, "day")
DAYS = Window(TODAY - timedelta(days=3), TODAY + timedelta(days=2))
CLIENT = (KeptDimension("client"), KeptDimension("actor", keeps_hours=False))
TABLES = {
    "": "rollups_model_halves",
    "errorCode": "rollups_error_code_halves",
    "client": "rollups_client_hours",
}
Counts = dict[tuple[str, datetime, str, str], int]
"""Events by organisation, hour, model and value."""


def mix(seed: int, count: int = 300) -> list[Event]:
    """Events of three days, the last of which goes on."""
    return Mix(seed, start=TODAY - timedelta(days=2), end=TODAY + timedelta(days=1)).events(count)


def add(owner: connection, worker: Database, events: list[Event]) -> None:
    insert_batch(owner, events)
    Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting()


def kept(owner: connection, dimension: str) -> Counts:
    """Return what the rollups hold of first halves."""
    with owner.cursor() as cur:
        cur.execute(
            "SELECT org_id::text, bucket_start, model_id, value, sum(invocations)::int"
            f" FROM analytics.{TABLES[dimension]}"
            " WHERE date_part('minute', bucket_start) = 0"
            " AND extract(hour FROM bucket_start AT TIME ZONE 'UTC') = ANY (%s) GROUP BY 1, 2, 3, 4",
            (list(HALF_HOURS),),
        )
        return {(org, at.astimezone(UTC), model, value): n for org, at, model, value, n in cur.fetchall()}


def wanted(events: list[Event], dimension: str) -> Counts:
    found: Counts = {}
    for event in events:
        at, value = datetime.fromisoformat(event["occurredAt"]), value_of(event, dimension)
        if value is not None and at.hour in HALF_HOURS and at.minute < 30:
            key = event["orgId"], bucket_start(at, "hour"), event["modelId"], value
            found[key] = found.get(key, 0) + 1
    return found


def differences(worker: Database) -> list[str]:
    said: list[str] = []
    verify(worker, DAYS, said.append)
    return [line for line in said if line.startswith("DIFFERS")]


def halves_since(owner: connection) -> dict[str, datetime | None]:
    with owner.cursor() as cur:
        cur.execute("SELECT name, halves_since FROM analytics.rollup_dimensions")
        return {name: since and since.astimezone(UTC) for name, since in cur.fetchall()}


def test_halves_are_exact_before_and_after_hours_are_merged_and_added_to_days(
    owner: connection, worker: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MIN_ROWS", 1)
    keep_dimensions(worker, CLIENT)
    with owner.cursor() as cur:
        cur.execute(
            "UPDATE analytics.rollup_dimensions SET days_until = %s WHERE groupable",
            (TODAY - timedelta(days=2),),
        )
    events: list[Event] = []
    for seed in range(3):
        more = mix(seed)
        events += more
        add(owner, worker, more)
    for _ in range(2):
        for dimension in TABLES:
            assert kept(owner, dimension) == wanted(events, dimension), dimension
        assert differences(worker) == []
        Merge(worker).merge_many(TABLES["client"], TODAY - timedelta(days=2), Stop())
        Days(worker).add_past_hours(Stop())
    with owner.cursor() as cur:
        cur.execute(
            "SELECT count(*) FROM (SELECT FROM analytics.rollups_client_hours"
            " WHERE bucket_start < %s GROUP BY org_id, model_id, value, bucket_start"
            " HAVING count(*) > 1) AS several",
            (bucket_start(NOW, "hour") - timedelta(hours=1),),
        )
        assert cur.fetchone() == (0,)


@pytest.mark.parametrize("dimension", TABLES)
def test_verify_names_a_half_that_differs_and_rebuild_mends_it(
    owner: connection, worker: Database, dimension: str
) -> None:
    keep_dimensions(worker, CLIENT)
    events = mix(1)
    add(owner, worker, events)
    with owner.cursor() as cur:
        cur.execute(
            f"SELECT org_id, ctid::text FROM analytics.{TABLES[dimension]}"
            " WHERE date_part('minute', bucket_start) = 0"
            " AND extract(hour FROM bucket_start AT TIME ZONE 'UTC') = ANY (%s) LIMIT 1",
            (list(HALF_HOURS),),
        )
        cur.execute(
            f"UPDATE analytics.{TABLES[dimension]} SET invocations = invocations + 1"
            " WHERE org_id = %s AND ctid = %s::tid",
            cur.fetchone(),
        )
        assert cur.rowcount == 1
    assert any("half" in line for line in differences(worker))
    rebuild(worker, DAYS, lambda _: None)
    assert differences(worker) == []
    assert kept(owner, dimension) == wanted(events, dimension)


def test_what_the_release_before_adds_lacks_halves_until_it_is_made_again(
    owner: connection, worker: Database
) -> None:
    keep_dimensions(worker, CLIENT)
    add(owner, worker, mix(1))
    assert set(halves_since(owner).values()) == {None}
    events = mix(2)
    batch = insert_batch(owner, events)
    with owner.cursor() as cur:
        cur.execute(
            "UPDATE analytics.ingestion_batches SET rolled_up_at = now() WHERE batch_id = %s", (batch,)
        )
    newest = max(datetime.fromisoformat(event["occurredAt"]) for event in events)
    since = bucket_start(newest, "hour") + timedelta(hours=1)
    assert halves_since(owner) == {"": since, "errorCode": since, "client": None, "actor": None}
    rebuild(worker, DAYS, lambda _: None)
    assert set(halves_since(owner).values()) == {None}
    assert differences(worker) == []


@pytest.fixture
def empty(stack: LocalStack) -> Iterator[str]:
    """The URL of a database without a schema."""
    name = new_name("_")
    yield stack.create_database(name)
    stack.drop_database(name)


@pytest.mark.skipif(citus_cluster.is_wanted(), reason="a schema of before Citus is not spread")
def test_hours_from_before_the_migration_have_no_halves_until_they_are_made_again(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [each for each in migrations() if each.version < 22]
    database = Database(empty, application_name="before")
    with monkeypatch.context() as patch:
        patch.setattr(shared.migrate, "migrations", lambda: before)
        migrate(database)
    owner = connect(empty)
    events = mix(1)
    insert_batch(owner, events)
    with owner.cursor() as cur:
        cur.execute("SELECT analytics.add_rollup_dimension('client', true, NULL)")
        cur.execute("UPDATE analytics.rollup_dimensions SET complete_since = NULL")
        cur.execute("UPDATE analytics.ingestion_batches SET rolled_up_at = now(), with_dimensions = true")
        cur.execute(
            "INSERT INTO analytics.model_freshness (org_id, model_id, last_event_at, last_rollup_at)"
            " SELECT org_id, model_id, max(occurred_at), now() FROM analytics.usage_events GROUP BY 1, 2"
        )
    migrate(database)
    newest = max(datetime.fromisoformat(event["occurredAt"]) for event in events)
    since = bucket_start(newest, "hour") + timedelta(hours=1)
    assert halves_since(owner) == {"": since, "errorCode": since, "client": since}
    assert kept(owner, "client") == {}
    rebuild(database, DAYS, lambda _: None)
    assert set(halves_since(owner).values()) == {None}
    for dimension in TABLES:
        assert kept(owner, dimension) == wanted(events, dimension)
    assert differences(database) == []
    owner.close()
    database.close()
