"""One attempt at one job: its file made in one thread and uploaded in another, joined by a pipe."""

import threading
from datetime import timedelta

from export_worker.jobs import Job
from export_worker.pipe import Pipe
from export_worker.report import CsvReport, Report
from shared.buckets import rfc3339
from shared.errors import AnalyticsError, ObjectStoreUnavailable
from shared.postgres import Database
from shared.s3 import PART_BYTES, ObjectStore

TIME_LIMIT = timedelta(hours=1)
"""No attempt takes longer: a snapshot that is held open keeps the database from cleaning up."""

_PATIENCE_SECONDS = 120


class Aborted(AnalyticsError):
    """The attempt was ended from outside."""


class Delivery:
    """Makes and uploads one claim's file. run() in one thread, the rest from any."""

    def __init__(self, job: Job, database: Database, store: ObjectStore) -> None:
        self.job = job
        self._database = database
        self._store = store
        # Room for the next part while one is under way.
        self._pipe = Pipe(PART_BYTES, _PATIENCE_SECONDS)
        self._csv = CsvReport(job, self._pipe.put)
        self._report: Report | None = None
        self._over = False
        self._lock = threading.Lock()

    @property
    def rows_done(self) -> int:
        """About how many rows were read so far."""
        return self._csv.rows_done

    def abort(self, reason: str) -> None:
        """End the attempt: run() raises Aborted with this reason, unless its file is uploaded already."""
        self._end(Aborted(reason))

    def run(self) -> Report:
        """Return once the object is whole.

        Raises ObjectStoreUnavailable, ObjectStoreRefused, DatabaseUnavailable, NotExportable, Standstill, or
        Aborted.
        """
        writer = threading.Thread(target=self._write, name=f"csv of {self.job.job_id}", daemon=True)
        writer.start()
        try:
            self._upload()
        except BaseException as error:
            self._end(error)
            writer.join()
            self._database.close()  # its socket is shut
            raise
        finally:
            writer.join()
            with self._lock:
                # From here on the connection is another statement's: no late abort() may cut it.
                self._over = True
        report = self._report
        assert report is not None  # noqa: S101  the upload ends well only after the writer did
        self._check(report)
        return report

    def remove_object(self) -> None:
        """Remove what run() stored, for a claim that was lost meanwhile."""
        self._store.remove(self.job.object_key)

    def _end(self, error: BaseException) -> None:
        with self._lock:
            if not self._over:
                self._pipe.fail(error)
                self._database.cut()

    def _write(self) -> None:
        try:
            self._report = self._csv.run(self._database, time_limit_seconds=TIME_LIMIT.total_seconds())
        except BaseException as error:  # noqa: BLE001  the uploading thread raises it
            self._pipe.fail(error)
        else:
            self._pipe.complete()

    def _upload(self) -> None:
        job = self.job
        self._store.put(
            job.object_key,
            self._pipe,
            content_type="application/gzip" if job.compress else "text/csv; charset=utf-8",
            metadata={
                "org-id": job.org_id,
                "job-id": job.job_id,
                "granularity": job.granularity,
                "group-by": job.group_by,
                "time-zone": job.time_zone,
                "window-start": rfc3339(job.window_start),
                "window-end": rfc3339(job.window_end),
            },
        )

    def _check(self, report: Report) -> None:
        """Ask for the object, and put on it what was not known before its last byte."""
        stored = self._store.stat(self.job.object_key)
        if stored is None or stored.size_bytes != report.size_bytes:
            raise ObjectStoreUnavailable("the object is not what was uploaded")
        self._store.tag(
            self.job.object_key, {"sha256": report.checksum, "data-as-of": rfc3339(report.data_as_of)}
        )
