"""What tests of rollups by dimension share: events, what rolls them up, and what the database says then."""

from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import Event
from rollup_worker.rollups import Rollups
from rollup_worker.verify import Window, verify
from shared.buckets import bucket_start
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.settings import KeptDimension
from tests.support.cuts import DIMENSIONS, Mix
from tests.support.seed import insert_batch

NOW = datetime.now(UTC)
ALL = tuple(KeptDimension(name) for name in DIMENSIONS)


def drain(database: Database) -> int:
    """Roll up all that waits; return how many batches."""
    rollups = Rollups(database, RollupMetrics(CollectorRegistry()))
    total = 0
    while added := rollups.add_waiting():
        total += added
    return total


def mix(count: int, seed: int = 1, days: int = 3) -> list[Event]:
    """Return events of some days, of the running hour and of the day ahead."""
    events = Mix(seed, start=NOW - timedelta(days=days), end=NOW + timedelta(hours=20)).events(count)
    return events + Mix(seed + 1000, start=NOW - timedelta(minutes=1), end=NOW).events(count // 5)


def window(days: int = 5) -> Window:
    """Return so many days, the last of them tomorrow."""
    end = bucket_start(NOW, "day") + timedelta(days=2)
    return Window(end - timedelta(days=days), end)


def differences(database: Database) -> list[str]:
    """Return the lines of verify that name a difference."""
    said: list[str] = []
    verify(database, window(), said.append)
    return [line for line in said if line.startswith("DIFFERS")]


def insert(owner: connection, events: list[Event], size: int = 70) -> None:
    """Insert events in batches of this size."""
    for at in range(0, len(events), size):
        insert_batch(owner, events[at : at + size])


def row(owner: connection, name: str) -> dict[str, Any]:
    """Return what the database says of a dimension."""
    with owner.cursor() as cur:
        cur.execute(
            "SELECT keeps_hours, hours_kept, complete_since, days_until FROM analytics.rollup_dimensions"
            " WHERE name = %s",
            (name,),
        )
        found = cur.fetchone()
    assert found is not None
    return dict(zip(("keeps_hours", "hours_kept", "complete_since", "days_until"), found, strict=True))


def execute(owner: connection, sql: str, *parameters: object) -> int:
    """Run a statement; return how many rows it touched."""
    with owner.cursor() as cur:
        cur.execute(sql, parameters)
        return int(cur.rowcount)
