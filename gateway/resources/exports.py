"""Export jobs: asked for here, made by the export worker, fetched from S3 by a link signed on the spot."""

import base64
import binascii
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar

import falcon

from gateway.access.audit import write_audit_row
from gateway.access.authorize import EXPORTS_CREATE, EXPORTS_DOWNLOAD, EXPORTS_READ
from gateway.cuts.parse import plan_of
from gateway.database import GatewayDatabase
from gateway.http.answers import encode, rfc3339_or_none, send
from gateway.http.params import Params
from gateway.http.problems import Fault, Problem
from gateway.resources.export_request import read_request
from shared.buckets import rfc3339
from shared.clock import Clock
from shared.cut import Cut
from shared.export_job import EXPORT_STATUSES, is_plain
from shared.kept import read_kept
from shared.postgres import Cursor, Row, fetch_rows
from shared.s3 import LONGEST_LINK, ObjectStore
from shared.statements import load_statements
from shared.validators import Invalid, time, uuid
from shared.zones import local_text, zone

_SQL = load_statements("export_jobs.sql")
_CUTS = load_statements("cuts.sql")


class ExportsResource:
    """POST and GET /orgs/{orgId}/exports"""

    NEEDS: ClassVar = {"POST": EXPORTS_CREATE, "GET": EXPORTS_READ}

    def __init__(self, database: GatewayDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def on_post(self, req: falcon.Request, resp: falcon.Response, org_id: str) -> None:
        """Create a job, or find the one that the same Idempotency-Key created."""
        Params(req.query_string).check()
        now = self._clock()
        wanted, cut = read_request(req, org_id, now)
        job = self._database.of(org_id).transaction(
            partial(_create, wanted=wanted, cut=cut, now=now, req=req)
        )
        req.context.audited = True
        resp.status = 202
        resp.location = f"{req.path}/{job['job_id']}"
        resp.content_type = falcon.MEDIA_JSON
        resp.data = encode(_shown(job))

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str) -> None:
        """List jobs, newest first."""
        params = Params(req.query_string, "status", "limit", "cursor")
        status = params.choice("status", EXPORT_STATUSES)
        limit = params.whole_number("limit", min_value=1, max_value=200, default=50)
        created_at, job_id = _read_cursor(params)
        params.check()
        jobs = self._database.of(org_id).rows(
            _SQL["list_jobs"],
            {
                "org_id": org_id,
                "status": status,
                "limit": limit + 1,
                "before_created_at": created_at,
                "before_job_id": job_id,
            },
        )
        more = _write_cursor(jobs[limit - 1]) if len(jobs) > limit else None
        send(req, resp, {"jobs": [_shown(job) for job in jobs[:limit]], "nextCursor": more})


class ExportResource:
    """GET /orgs/{orgId}/exports/{jobId}"""

    NEEDS: ClassVar = {"GET": EXPORTS_READ}

    def __init__(self, database: GatewayDatabase) -> None:
        self._database = database

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str, job_id: str) -> None:
        """Answer with the job."""
        Params(req.query_string).check()
        send(req, resp, _shown(_find(self._database, org_id, job_id)))


class DownloadResource:
    """GET /orgs/{orgId}/exports/{jobId}/download"""

    NEEDS: ClassVar = {"GET": EXPORTS_DOWNLOAD}

    def __init__(
        self, database: GatewayDatabase, store: ObjectStore, link_life: timedelta, clock: Clock
    ) -> None:
        self._database = database
        self._store = store
        self._link_life = link_life
        self._clock = clock

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str, job_id: str) -> None:
        """Redirect to a link that lives no longer than the job."""
        Params(req.query_string).check()
        job = _find(self._database, org_id, job_id)
        left = job["expires_at"] - self._clock() if job["expires_at"] else timedelta()
        if job["status"] == "expired" or (job["status"] == "succeeded" and left < timedelta(seconds=1)):
            raise Problem(410, "The export has expired; create it again.", slug="export-expired")
        if job["status"] != "succeeded":
            why = "failed; its error says why" if job["status"] == "failed" else f"is {job['status']}"
            raise Problem(409, f"There is nothing to download: the export {why}.", slug="export-not-ready")
        resp.set_header("Cache-Control", "no-store")
        resp.status = 302
        resp.location = self._store.signed_url(
            job["object_key"],
            expires=min(left, self._link_life, LONGEST_LINK),
            file_name=_file_name(job),
            content_type="application/gzip" if job["compress"] else "text/csv",
        )


def _create(cur: Cursor, wanted: dict[str, Any], cut: Cut, now: datetime, req: falcon.Request) -> Row:
    """Create the job, or find the one that the key's first request created; with its audit row."""
    found = fetch_rows(cur, _SQL["find_job_by_key"], wanted) if wanted["idempotency_key"] is not None else []
    if not found:
        if not is_plain(wanted["group_by"], wanted["time_zone"]):
            _check_kept(cur, cut, now)
        created = fetch_rows(cur, _SQL["create_job"], wanted)
        # Not created: another request has just done so.
        found = created or fetch_rows(cur, _SQL["find_job_by_key"], wanted)
    if not (found and found[0].get("same_request", True)):
        detail = "This Idempotency-Key was used for another export; choose a new one."
        raise Problem(422, detail, slug="idempotency-key-reused")
    write_audit_row(cur, req)
    return found[0]


def _check_kept(cur: Cursor, cut: Cut, now: datetime) -> None:
    """Raise Problem 400 for a cut that could not be delivered now; the worker looks again (cut_file.py)."""
    plan = plan_of(cut, read_kept(cur), now)
    if plan.oldest_event is not None:
        cur.execute(_CUTS["events_kept_since"])
        [(kept_since,)] = cur.fetchall()
        reason = plan.lacks_events(kept_since)
        if reason is not None:
            raise Problem.invalid([Fault(field="timeRange.start", reason=reason)])


def _find(database: GatewayDatabase, org_id: str, job_id: str) -> Row:
    """Return an organisation's job. What is another's, or malformed, was never there."""
    try:
        rows = database.of(org_id).rows(_SQL["find_job"], {"org_id": org_id, "job_id": uuid(job_id)})
    except Invalid:
        rows = []
    if not rows:
        raise Problem(404, "This organisation has no such export.", slug="export-not-found")
    return rows[0]


def _shown(job: Row) -> dict[str, Any]:
    tz = zone(job["time_zone"])
    return {
        "jobId": job["job_id"],
        "orgId": job["org_id"],
        "status": job["status"],
        "granularity": job["granularity"],
        "timeRange": {
            "start": local_text(job["window_start"], tz),
            "end": local_text(job["window_end"], tz),
        },
        "models": job["models"],
        "groupBy": job["group_by"],
        "timeZone": job["time_zone"],
        "compression": "gzip" if job["compress"] else "none",
        "createdAt": rfc3339_or_none(job["created_at"]),
        "startedAt": rfc3339_or_none(job["started_at"]),
        "completedAt": rfc3339_or_none(job["completed_at"]),
        "expiresAt": rfc3339_or_none(job["expires_at"]),
        "rowsDone": job["rows_done"],
        "rowCount": job["row_count"],
        "checksum": job["checksum"],
        "sizeBytes": job["size_bytes"],
        "dataAsOf": rfc3339_or_none(job["data_as_of"]),
        "completeSince": rfc3339_or_none(job["complete_since"]),
        "requestedBy": job["requested_by"],
        "error": job["error"],
    }


def _file_name(job: Row) -> str:
    start, end = (f"{job[name]:%Y%m%dT%H%MZ}" for name in ("window_start", "window_end"))
    end_of_name = "csv.gz" if job["compress"] else "csv"
    return f"usage-{job['org_id']}-{job['granularity']}-{start}-{end}.{end_of_name}"


def _read_cursor(params: Params) -> tuple[datetime | None, str | None]:
    text = params.text("cursor", max_length=200)
    if text is None:
        return None, None
    try:
        created_at, _, job_id = base64.urlsafe_b64decode(text.encode()).decode().partition(" ")
        return time(created_at), uuid(job_id)
    except (ValueError, binascii.Error):
        params.fault("cursor", "must be a nextCursor of this list")
        return None, None


def _write_cursor(job: Row) -> str:
    return base64.urlsafe_b64encode(f"{rfc3339(job['created_at'])} {job['job_id']}".encode()).decode()
