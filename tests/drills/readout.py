"""Reads what a drill has come to: rows, rollups, answers, files, dead letters, jobs, the audit log."""

import csv
import hashlib
import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from psycopg2.extensions import connection

from deploy.local.api import Api
from deploy.local.traffic import Sums, org
from tests.drills.found import Bucket, Counted, Found, Job, Row
from tests.drills.publishing import digest
from tests.drills.scene import CANARY, ORGS, Scene

_ROWS = """
    SELECT org_id::text, event_id::text, occurred_at, model_id, status, input_tokens, output_tokens,
           cost_estimate_cents, extract(epoch FROM rolled_up_at)::float8
    FROM analytics.usage_events LEFT JOIN analytics.ingestion_batches USING (batch_id)"""
_SUMS = """
    SELECT org_id::text, model_id, bucket_start, invocations, errors, input_tokens, output_tokens,
           cost_estimate_cents
    FROM analytics.{}_rollups"""
_BY_CLIENT = """
    SELECT org_id::text, model_id, date_trunc('hour', bucket_start, 'UTC'), sum(invocations), sum(errors),
           sum(input_tokens), sum(output_tokens), sum(cost_estimate_cents)
    FROM analytics.rollups WHERE dimension = 'client' AND grain = 60 GROUP BY 1, 2, 3"""
_INCOMPLETE = "SELECT FROM analytics.rollup_dimensions WHERE name = 'client' AND complete_since IS NOT NULL"
_AUDITED = "SELECT request_id FROM analytics.audit_log"
_JOBS = "SELECT job_id::text, status, checksum, size_bytes, row_count, object_key, org_id::text FROM {}"


def read_out(scene: Scene, final_jobs: dict[str, str]) -> Found:
    """Read everything while nothing is published. final_jobs: an export of the window by organisation."""
    found = Found()
    with scene.owner() as owner:
        owner.autocommit = False
        owner.set_session(isolation_level="REPEATABLE READ")
        found.rows = [_row(values) for values in _query(owner, _ROWS)]
        for grain, name in (("hour", "hourly"), ("day", "daily")):
            found.views[f"{name} rollups"] = (grain, _sums(_query(owner, _SUMS.format(name))))
        if not _query(owner, _INCOMPLETE):
            found.views["rollups by client"] = ("hour", _sums(_query(owner, _BY_CLIENT)))
        jobs = _query(owner, _JOBS.format("analytics.export_jobs"))
        found.audited = [str(value) for (value,) in _query(owner, _AUDITED)]
    with scene.observer() as observer:
        found.dead_letters = [(digest(each.body), each.reason) for each in observer.dead_letters()]
        found.queued = observer.queued()
    api = Api(scene.gateway_url, _TENANTS)
    for grain in ("hour", "day"):
        found.views[f"usage API by {grain}"] = (grain, dict(_from_api(api, scene, grain)))
    files = scene.bucket.files()
    found.leaks = [*scene.logs.leaks(), *_foreign_files(files)]
    found.jobs = [_job(values, files) for values in jobs]
    if final_jobs:
        keys = {values[0]: values[5] for values in jobs}
        lines = [line for job_id in final_jobs.values() for line in _lines(files.get(keys[job_id], b""))]
        found.views["exported files"] = ("hour", _sums(_from_file(line) for line in lines))
    return found


_TENANTS = {
    "X-Actor-Subject": "checker",
    "X-Actor-Roles": "analytics:usage:read",
    "X-Actor-Orgs": ",".join(org(number) for number in range(ORGS)),
}


def wait_for_exports(scene: Scene, seconds: float) -> None:
    """Wait until the jobs have ended, or so long; the checker says which have not."""
    deadline = time.monotonic() + seconds
    with scene.owner() as owner:
        while time.monotonic() < deadline:
            [(waiting,)] = _query(
                owner, "SELECT count(*) FROM analytics.export_jobs WHERE status IN ('pending', 'running')"
            )
            if not waiting:
                return
            time.sleep(0.2)


def _query(owner: connection, sql: str) -> list[tuple[Any, ...]]:
    with owner.cursor() as cur:
        cur.execute(sql)
        return list(cur.fetchall())


def _row(values: tuple[Any, ...]) -> Row:
    org_id, event_id, occurred_at, *others, visible_at = values
    return Row(Counted(org_id, event_id, occurred_at, *others), visible_at)


def _sums(lines: Any) -> dict[Bucket, Sums]:
    return {
        (org_id, model_id, bucket.astimezone(UTC)): Sums(
            int(calls), int(errors), int(tokens_in), int(tokens_out), Decimal(cost)
        )
        for org_id, model_id, bucket, calls, errors, tokens_in, tokens_out, cost in lines
    }


def _from_api(api: Api, scene: Scene, grain: str) -> Iterator[tuple[Bucket, Sums]]:
    for number in range(ORGS):
        answer = api.usage(org(number), scene.start, scene.end, granularity=grain)
        for point in answer["series"]:
            bucket = datetime.fromisoformat(point["bucketStart"])
            yield (
                (org(number), point["modelId"], bucket),
                Sums(
                    point["invocations"],
                    point["errors"],
                    point["inputTokens"],
                    point["outputTokens"],
                    Decimal(point["costEstimateCents"]),
                ),
            )


def _foreign_files(files: dict[str, bytes]) -> Iterator[str]:
    own = org(ORGS - 1)
    for key, data in files.items():
        if not key.startswith(own) and CANARY.encode() in data:
            yield f"data of {own} in {key}"


def _lines(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def _from_file(line: dict[str, str]) -> tuple[Any, ...]:
    names = ("invocations", "errors", "input_tokens", "output_tokens", "cost_estimate_cents")
    bucket = datetime.fromisoformat(line["bucket_start"])
    return line["org_id"], line["model_id"], bucket, *(line[name] for name in names)


def _job(values: tuple[Any, ...], files: dict[str, bytes]) -> Job:
    job_id, status, checksum, size_bytes, row_count, _, _ = values
    objects = [
        (hashlib.sha256(data).hexdigest(), len(data), len(_lines(data)))
        for key, data in files.items()
        if job_id in key
    ]
    return Job(job_id, status, checksum, size_bytes, row_count, objects)
