"""Random exports of random events hold what an oracle says, line by line, to the last token and decimal."""

import random
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import org
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.rollups import Rollups
from rollup_worker.upkeep import Upkeep
from shared.buckets import bucket_start, rfc3339
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.process import Stop
from shared.settings import RollupWorkerSettings, load
from tests.support.export_cuts import FIGURES, MEMBERS, ExportClient, File
from tests.support.exports import Exports, plain
from tests.support.gateway_app import Gateway, assert_problem
from tests.support.oracle import MEMBERS as FIELDS
from tests.support.oracle import Answer, Event, Question, Sums, shown, start_of
from tests.support.places import TestDatabase
from tests.support.questions import (
    DAYS_ONLY,
    FIRST,
    KEPT,
    MODELS,
    NIGHTS,
    NOW,
    PART_HOUR_ZONES,
    ZONES,
    an_event,
)
from tests.support.seed import insert_batch

DAY = timedelta(days=1)
TODAY = bucket_start(NOW, "day")
GRAINS = {"hourly": "hour", "daily": "day", "monthly": "day"}


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


def an_export(rng: random.Random) -> dict[str, Any]:
    """Return the body of a request that has an answer."""
    dimension = rng.choice((None, *FIELDS, "metadata.region"))
    granularity = rng.choice(tuple(GRAINS))
    zone = rng.choice(ZONES)
    if dimension in DAYS_ONLY:
        zone, granularity = "UTC", rng.choice(("daily", "monthly"))
    span = timedelta(minutes=rng.randrange(1, 31 * 24 * 60 + 1))
    middle = (
        datetime.fromisoformat(rng.choice(NIGHTS)) if rng.random() < 0.5 else FIRST + 70 * DAY * rng.random()
    )
    start = middle - span * rng.random()
    names = [name for name in ("model", dimension) if name and rng.random() < 0.8]
    body = {
        "timeRange": {"start": start.isoformat(), "end": (start + span).isoformat()},
        "granularity": granularity,
        "groupBy": ",".join(names) or "none",
        "timeZone": zone,
    }
    return body | ({"models": rng.sample((*MODELS, "nobody's"), 3)} if rng.random() < 0.3 else {})


def check(file: File, body: dict[str, Any], events: list[Event]) -> int:
    """Compare a file with the oracle's answer; return how many lines it has."""
    asked = {
        **body["timeRange"],
        "granularity": GRAINS[body["granularity"]],
        "groupBy": body["groupBy"],
        "timeZone": body["timeZone"],
        **({"modelId": body["models"]} if "models" in body else {}),
    }
    question = Question(asked, org(0))
    answer = Answer(question, events)
    said = file.job["timeRange"]
    assert said == {"start": shown(answer.start, question), "end": shown(answer.end, question)}, body
    points: defaultdict[tuple[datetime, str, bool, str], Sums] = defaultdict(Sums)
    for (text, _, model, value, _), sums in answer.points.items():
        at = datetime.fromisoformat(text)
        if body["granularity"] == "monthly":
            at = start_of(at, "month", question.zone)
        points[at, model or "", value is None, value or ""].events += sums.events
    wanted = [
        [
            shown(at, question),
            org(0),
            *([cell(model)] if question.by_model else []),
            *([cell(value)] if question.dimension else []),
            *(plain(sums.usage()[MEMBERS[name]] + 0) for name in FIGURES),
        ]
        for (at, model, _, value), sums in sorted(points.items(), key=lambda point: point[0])
    ]
    assert [list(line.values()) for line in file.lines] == wanted, body
    return len(wanted)


def cell(text: str) -> str:
    """Return a text as it must stand in a file."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


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
        lines = sum(check(client.file(job), body, events) for job, body in zip(jobs, bodies, strict=True))
    assert lines > 500

    kept = {"EVENT_RETENTION": "20d", "ROLLUP_RETENTION": "40d", "DATABASE_URL": database.rollup_worker_url}
    settings = load(RollupWorkerSettings, kept)
    Upkeep(worker, settings, RollupMetrics(CollectorRegistry()), clock=lambda: NOW).run(Stop())
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
            check(file, body, left)
            begin = datetime.fromisoformat(file.job["timeRange"]["start"])
            since = rfc3339(rollups_since) if begin < rollups_since else None
            assert file.job["completeSince"] == since, body
            delivered += 1
    assert delivered > 5
