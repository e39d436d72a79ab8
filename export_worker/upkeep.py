"""Ends the life of jobs and objects, and removes what lost attempts left."""

import random
import time
from datetime import timedelta

import structlog

from export_worker.jobs import Jobs
from shared.errors import ObjectStoreRefused
from shared.metrics import ExportMetrics
from shared.postgres import fetch_rows
from shared.process import Stop
from shared.s3 import ObjectStore
from shared.statements import load_statements

_MAX_JOBS = 1_000
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
        if expired := self._change("expire", max_jobs=_MAX_JOBS):
            _log.info("jobs expired", jobs=expired)
        try:
            self._remove_leftovers(stop)
        except ObjectStoreRefused as error:
            _log.error("the object store refuses to remove objects", error=str(error))
        if time.monotonic() - self._deleted_at > _DELETE_EVERY_SECONDS or not self._deleted_at:
            # As long again as its file could be fetched, a job's row still says what became of it.
            self._change("delete_old_jobs", max_jobs=_MAX_JOBS, age=2 * self._retention)
            self._deleted_at = time.monotonic()

    def _remove_leftovers(self, stop: Stop) -> None:
        """Remove finished jobs' objects but the ones to keep.

        No transaction is open while the object store is asked, so two workers may remove the same: it is done
        twice and harms nobody. In random order they seldom do.
        """
        with self._database.transaction() as cur:
            found = fetch_rows(cur, _SQL["jobs_with_leftovers"], {"max_jobs": _MAX_JOBS})
        random.shuffle(found)
        for job in found:
            if stop:
                return
            folder = f"{job['org_id']}/{job['job_id']}/"
            removed = [key for key in self._store.keys(folder) if key != job["object_to_keep"]]
            for key in removed:
                self._store.remove(key)
            uploads = self._store.abort_uploads(folder)
            self._change("mark_removed", **job)
            self._metrics.objects_removed.inc(len(removed) + uploads)
            if removed or uploads:
                _log.info(
                    "objects removed",
                    job_id=str(job["job_id"]),
                    objects=len(removed),
                    unfinished_uploads=uploads,
                )

    def _change(self, statement: str, **parameters: object) -> int:
        with self._database.transaction() as cur:
            cur.execute(_SQL[statement], parameters)
            return cur.rowcount
