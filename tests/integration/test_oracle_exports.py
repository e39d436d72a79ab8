"""Random exports of random events hold what an oracle says, line by line, to the last token and decimal."""

import random
from datetime import datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from rollup_worker.dimensions import keep_dimensions
from rollup_worker.rollups import Rollups
from rollup_worker.upkeep import Upkeep
from shared.buckets import bucket_start, rfc3339
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.process import Stop
from shared.settings import RollupWorkerSettings, load
from tests.support.export_cuts import ExportClient, an_export, check_file
from tests.support.exports import Exports
from tests.support.gateway_app import Gateway, assert_problem
from tests.support.oracle import Event
from tests.support.places import TestDatabase
from tests.support.questions import KEPT, NOW, PART_HOUR_ZONES, an_event
from tests.support.seed import insert_batch

DAY = timedelta(days=1)
TODAY = bucket_start(NOW, "day")


@pytest.fixture
def events(owner: connection, worker: Database) -> list[Event]:
    """Events that are all rolled up."""
    rng = random.Random(20261127)
    found = [an_event(rng) for _ in range(800)]
    keep_dimensions(worker, KEPT)
    insert_batch(owner, found, NOW)
    while Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting():
        pass
    return found


@pytest.mark.timeout(600)
def test_files_agree_with_the_oracle_before_and_after_retention(
    environ: dict[str, str],
    exports: Exports,
    events: list[Event],
    worker: Database,
    database: TestDatabase,
) -> None:
    rng = random.Random("exports")
    client = ExportClient(Gateway(environ, clock=lambda: NOW), exports)
    bodies = [an_export(rng) for _ in range(25)]
    with exports.worker(EXPORT_WORKER_CONCURRENCY="4"):
        jobs = [client.create(**body) for body in bodies]
        lines = sum(
            check_file(client.file(job), body, events) for job, body in zip(jobs, bodies, strict=True)
        )
    assert lines > 500

    kept = {"EVENT_RETENTION": "20d", "ROLLUP_RETENTION": "40d", "DATABASE_URL": database.rollup_worker_url}
    settings = load(RollupWorkerSettings, kept)
    Upkeep(worker, settings, clock=lambda: NOW).run(Stop())
    rollups_since = TODAY - 40 * DAY
    left = [event for event in events if datetime.fromisoformat(event["occurredAt"]) >= rollups_since]
    delivered = 0
    with exports.worker():
        for asked in [{"groupBy": "model", "timeZone": "UTC"}, {}] * 2 + bodies[:12]:
            body = an_export(rng) | asked
            answer = client.post(**body)
            if answer.status_code == 400:
                assert_problem(answer, 400, "timeRange.start")
                assert body["timeZone"] in PART_HOUR_ZONES, body
                continue
            file = client.file(answer.json)
            check_file(file, body, left)
            begin = datetime.fromisoformat(file.job["timeRange"]["start"])
            since = rfc3339(rollups_since) if begin < rollups_since else None
            assert file.job["completeSince"] == since, body
            delivered += 1
    assert delivered > 5
