"""Ends the life of jobs and objects, and removes what lost attempts left."""

import time
from datetime import timedelta

import structlog

from export_worker.jobs import Jobs
from shared.errors import ObjectStoreRefused
from shared.metrics import ExportMetrics
from shared.object_store import ObjectStore
from shared.process import Stop
from shared.statements import load_statements

_MOST_JOBS = 1_000
_DELETE_EVERY_SECONDS = 3600

_SQL = load_statements("export_jobs.sql")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("upkeep")


class Upkeep:
    """For one thread. Of several workers each does a share."""

    def __init__(self, jobs: Jobs, store: ObjectStore, metrics: ExportMetrics, retention: timedelta) -> None:
        self._database = jobs.database
        self._jobs = jobs
        self._store = store
        self._metrics = metrics
        self._retention = retention
        self._deleted_at = 0.0

    def run(self, stop: Stop) -> None:
        """Do all of it once, unless the stop comes first.

        Raises DatabaseUnavailable or ObjectStoreUnavailable; what was not done is done next time.
        """
        if abandoned := self._jobs.fail_abandoned():
            _log.error("jobs failed whose workers vanished", jobs=abandoned)
        if expired := self._change("expire", most_jobs=_MOST_JOBS):
            _log.info("jobs expired", jobs=expired)
        try:
            while not stop and self._tidy_one():
                pass
        except ObjectStoreRefused as error:
            _log.error("the object store refuses to remove objects", error=str(error))
        if time.monotonic() - self._deleted_at > _DELETE_EVERY_SECONDS or not self._deleted_at:
            # As long again as its file could be fetched, a job's row still says what became of it.
            self._change("delete_old_jobs", most_jobs=_MOST_JOBS, age=2 * self._retention)
            self._deleted_at = time.monotonic()

    def _tidy_one(self) -> bool:
        """Remove a finished job's objects but the one to keep; False when no job needs it."""
        with self._database.transaction() as cur:
            cur.execute(_SQL["job_to_tidy"])
            row = cur.fetchone()
            if row is None:
                return False
            org_id, job_id, object_to_keep = row
            folder = f"{org_id}/{job_id}/"
            removed = [key for key in self._store.keys(folder) if key != object_to_keep]
            for key in removed:
                self._store.remove(key)
            uploads = self._store.abort_uploads(folder)
            cur.execute(_SQL["mark_tidied"], {"org_id": org_id, "job_id": job_id})
        self._metrics.tidied.inc(len(removed) + uploads)
        if removed or uploads:
            _log.info("objects removed", job_id=str(job_id), objects=len(removed), unfinished_uploads=uploads)
        return True

    def _change(self, statement: str, **parameters: object) -> int:
        with self._database.transaction() as cur:
            cur.execute(_SQL[statement], parameters)
            return cur.rowcount
