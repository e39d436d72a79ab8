"""TimescaleDB compresses days older than a week. Late events still go there, and count once."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import Expected, Router, encode
from rollup_worker.rollups import Rollups
from rollup_worker.verify import Window, rebuild, verify
from shared.buckets import bucket_start
from shared.metrics import RollupMetrics
from shared.postgres import Database
from tests.support.ingestion import Ingestion
from tests.support.places import TestDatabase

TODAY = bucket_start(datetime.now(UTC), "day")
OLD = Window(TODAY - timedelta(days=10), TODAY - timedelta(days=8))


def compress(owner: connection) -> int:
    """Compress the days that the policy would; return how many days are compressed."""
    with owner.cursor() as cur:
        cur.execute(
            "SELECT compress_chunk(chunk, if_not_compressed => true)"
            " FROM show_chunks('analytics.usage_events', older_than => interval '7 days') AS chunk"
        )
        cur.execute("SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed")
        [(compressed,)] = cur.fetchall()
    return int(compressed)


def test_late_events_and_resends_of_compressed_days_count_once(
    owner: connection, database: TestDatabase, ingestion: Ingestion
) -> None:
    with owner.cursor() as cur:
        cur.execute("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'")
        if cur.fetchall() == [(0,)]:
            pytest.skip("TimescaleDB is not installed")
    events = Router(seed=1, start=OLD.start, end=OLD.end, error_share=0.2).events(2_000)
    ingestion.start()
    ingestion.publish([encode(events[at : at + 100]) for at in range(0, 1_000, 100)])
    ingestion.wait_received(1_000)
    assert compress(owner) == 2
    ingestion.publish([encode(events[at : at + 100]) for at in range(0, 2_000, 100)])
    ingestion.wait_received(3_000)
    worker = Database(database.rollup_worker_url, application_name="rollups under test")
    rollups = Rollups(worker, RollupMetrics(CollectorRegistry()))
    while rollups.add_waiting():
        pass
    ingestion.observer.assert_equal(Expected(events))
    assert compress(owner) == 2
    said: list[str] = []
    assert verify(worker, OLD, said.append) == 0, said
    rebuild(worker, OLD, said.append)
    worker.close()
    ingestion.observer.assert_equal(Expected(events))
