"""The view analytics.freshness_status, as the runbook asks it."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import Event, Router, org
from rollup_worker.rollups import Rollups
from shared.metrics import RollupMetrics
from shared.postgres import Database
from tests.support.places import TestDatabase
from tests.support.seed import connect, insert_batch, rows

RUNBOOK = """
SELECT org_id, model_id, last_event_at, last_rollup_at, lag_seconds, status
FROM analytics.freshness_status
WHERE lag_seconds > 600
ORDER BY lag_seconds DESC;
"""


@pytest.fixture
def now() -> datetime:
    """When the test began: the view compares with the database's clock."""
    return datetime.now(UTC)


def event_of(org_number: int, model: str = "m", occurred_at: datetime | None = None) -> Event:
    occurred_at = occurred_at or datetime.now(UTC)
    end = occurred_at + timedelta(milliseconds=1)
    router = Router(seed=time.monotonic_ns(), start=occurred_at, end=end, models=[model])
    return router.event() | {"orgId": org(org_number)}


def status(owner: connection) -> dict[tuple[str, str], tuple[float, str]]:
    """Return lag and status by organisation and model."""
    found = rows(owner, "SELECT org_id::text, model_id, lag_seconds, status FROM analytics.freshness_status")
    return {(org_id, model): (lag, word) for org_id, model, lag, word in found}


def roll_up(database: TestDatabase) -> None:
    own = Database(database.rollup_worker_url, application_name="rollups")
    rollups = Rollups(own, RollupMetrics(CollectorRegistry()))
    while rollups.add_waiting():
        pass
    own.close()


@pytest.mark.parametrize("login", ["owner_url", "gateway_url", "rollup_worker_url"])
def test_the_runbook_s_query_finds_what_waits_for_over_ten_minutes_the_worst_first(
    database: TestDatabase, owner: connection, login: str, now: datetime
) -> None:
    for number, minutes in enumerate((5, 11, 30, 9)):
        insert_batch(owner, [event_of(number, "m", now)], received_at=now - timedelta(minutes=minutes))
    asker = connect(getattr(database, login))
    found = rows(asker, RUNBOOK)
    asker.close()
    assert [(row[0], row[1], row[5]) for row in found] == [(org(2), "m", "delayed"), (org(1), "m", "delayed")]
    assert all(row[2:4] == (now, None) for row in found)
    assert found[0][4] == pytest.approx(1800, abs=120)


@pytest.mark.parametrize(
    ("lag_seconds", "word"),
    [
        (0, "fresh"),
        (299.999, "fresh"),
        (300, "stale"),
        (599.999, "stale"),
        (600, "delayed"),
        (86_400, "delayed"),
    ],
)
def test_a_lag_has_its_word_from_its_threshold_on(
    owner: connection, lag_seconds: float, word: str, now: datetime
) -> None:
    insert_batch(owner, [event_of(0)], received_at=now)
    as_of = now + timedelta(seconds=lag_seconds)
    sql = "SELECT lag_seconds, status FROM analytics.model_freshness_at(%s, %s)"
    assert rows(owner, sql, org(0), as_of) == [(lag_seconds, word)]
    assert rows(owner, sql, None, as_of) == [(lag_seconds, word)]


def test_lag_grows_by_itself_while_an_event_waits_and_is_0_once_it_is_shown(
    database: TestDatabase, owner: connection
) -> None:
    insert_batch(owner, [event_of(0)])
    before, _ = status(owner)[org(0), "m"]
    time.sleep(0.5)
    after, _ = status(owner)[org(0), "m"]
    assert 0.5 <= after - before < 60
    roll_up(database)
    assert status(owner) == {(org(0), "m"): (0, "fresh")}


def test_an_idle_tenant_has_no_lag_however_long_it_is_idle(
    database: TestDatabase, owner: connection, now: datetime
) -> None:
    insert_batch(owner, [event_of(0)], received_at=now - timedelta(hours=3))
    roll_up(database)
    insert_batch(owner, [])  # nothing but duplicates waits
    in_a_year = now + timedelta(days=365)
    assert rows(
        owner, "SELECT lag_seconds, status FROM analytics.model_freshness_at(NULL, %s)", in_a_year
    ) == [(0, "fresh")]


def test_the_oldest_waiting_event_decides_and_other_models_and_organisations_do_not(
    database: TestDatabase, owner: connection, now: datetime
) -> None:
    insert_batch(owner, [event_of(0, "idle"), event_of(0, "busy"), event_of(1, "busy")])
    roll_up(database)
    for minutes in (2, 7, 1):
        insert_batch(owner, [event_of(0, "busy")], received_at=now - timedelta(minutes=minutes))
    found = status(owner)
    lag, word = found[org(0), "busy"]
    assert lag == pytest.approx(420, abs=120)
    assert word == "stale"
    assert found[org(0), "idle"] == found[org(1), "busy"] == (0, "fresh")


def test_lag_counts_from_receipt_so_a_late_event_is_not_old_and_one_of_the_future_not_negative(
    owner: connection, now: datetime
) -> None:
    late, ahead = now - timedelta(days=30), now + timedelta(hours=20)
    insert_batch(owner, [event_of(0, "late", late), event_of(0, "ahead", ahead)], received_at=now)
    insert_batch(owner, [event_of(0, "skewed")], received_at=now + timedelta(hours=1))
    found = status(owner)
    assert all(0 <= lag < 120 and word == "fresh" for lag, word in found.values())
    assert found[org(0), "skewed"] == (0, "fresh")


def test_last_event_is_the_newest_accepted_and_last_rollup_when_the_rollups_last_grew(
    database: TestDatabase, owner: connection, now: datetime
) -> None:
    sql = "SELECT last_event_at, last_rollup_at FROM analytics.freshness_status"
    hour = timedelta(hours=1)
    first, newest = now.replace(microsecond=0) - 5 * hour, now.replace(microsecond=0)
    insert_batch(owner, [event_of(0, occurred_at=first)])
    assert rows(owner, sql) == [(first, None)]
    roll_up(database)
    [(shown, rolled_up_at)] = rows(owner, sql)
    assert (shown, rolled_up_at > now) == (first, True)
    insert_batch(owner, [event_of(0, occurred_at=newest)])
    assert rows(owner, sql) == [(newest, rolled_up_at)]
    insert_batch(owner, [event_of(0, occurred_at=first - hour)])
    roll_up(database)
    [(shown, rolled_up_later)] = rows(owner, sql)
    assert shown == newest
    assert rolled_up_later > rolled_up_at


def test_an_organisation_without_events_has_no_rows(owner: connection) -> None:
    insert_batch(owner, [event_of(0)])
    assert rows(owner, "SELECT * FROM analytics.freshness_status WHERE org_id = %s", org(5)) == []
