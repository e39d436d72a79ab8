"""Claims a job, delivers it, records what became of it, again and again; one thread for each job at once."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import TypeVar

import structlog

from export_worker.cut_file import NotExportable
from export_worker.delivery import Aborted, Delivery
from export_worker.jobs import Job, Jobs
from export_worker.pipe import Standstill
from export_worker.wakeups import Wakeups
from shared.errors import (
    AnalyticsError,
    DatabaseUnavailable,
    DependencyError,
    ObjectStoreRefused,
    ObjectStoreUnavailable,
)
from shared.metrics import ExportMetrics
from shared.process import Backoff, Stop
from shared.s3 import ObjectStore
from shared.settings import ExportWorkerSettings

T = TypeVar("T")

_FIRST_RETRY = timedelta(seconds=2)

_log: structlog.stdlib.BoundLogger = structlog.get_logger("runner")


class Runner:
    """Works until the stop. For one thread; `delivery` may be read by any."""

    def __init__(
        self,
        jobs: Jobs,
        store: ObjectStore,
        *,
        metrics: ExportMetrics,
        settings: ExportWorkerSettings,
        stop: Stop,
        wakeups: Wakeups,
        require_schema: Callable[[], None],
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._metrics = metrics
        self._settings = settings
        self._stop = stop
        self._wakeups = wakeups
        self._require_schema = require_schema
        self._backoff = Backoff(metrics.dependency_errors)
        self.delivery: Delivery | None = None
        """What is under way."""

    def run(self) -> None:
        """Take jobs until the stop."""
        while not self._stop:
            seen = self._wakeups.count
            try:
                self._require_schema()
                job = self._look()
                pause_seconds = 0 if job else self._pause_seconds()
            except DependencyError as error:
                _log.warning("cannot take jobs, trying again", dependency=error.dependency, error=str(error))
                self._wakeups.wait(seen, self._backoff.pause_seconds(error.dependency))
                continue
            self._backoff.reset()
            self._metrics.last_success.set_to_current_time()
            if job is None:
                self._wakeups.wait(seen, pause_seconds)
            else:
                structlog.contextvars.clear_contextvars()
                structlog.contextvars.bind_contextvars(
                    org_id=job.org_id, job_id=job.job_id, attempt=job.attempt, fencing_token=job.fencing_token
                )
                self._deliver(job)

    def _look(self) -> Job | None:
        """Claim a job, but not while the object store is away: that would use up its attempts."""
        try:
            self._store.ensure_bucket()
        except ObjectStoreRefused as error:
            # Waiting would not help; a job that fails with this reason shows it to whoever asked.
            _log.error("the object store refuses this worker", error=str(error))
        return self._jobs.claim()

    def _pause_seconds(self) -> float:
        """Return how long to sleep unless a notification comes first."""
        due = self._jobs.seconds_until_due()
        interval = self._settings.interval.total_seconds()
        return interval if due is None else min(interval, max(due, 0.5))

    def _deliver(self, job: Job) -> None:
        began = time.monotonic()
        delivery = self.delivery = Delivery(job, self._jobs.database, self._store)
        _log.info("export begun", granularity=job.granularity, object_key=job.object_key)
        try:
            report = delivery.run()
            result = {**asdict(report), "object_key": job.object_key}
            recorded = self._recorded(lambda: self._jobs.succeed(job, result, self._settings.retention))
            if not recorded:
                delivery.remove_object()
                raise Aborted("the claim was lost before the end")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001  what somebody asked for must not end the worker: the job fails
            self._failed(job, error)
        else:
            seconds = time.monotonic() - began
            self._metrics.seconds.observe(seconds)
            self._metrics.rows.inc(report.row_count)
            self._metrics.bytes.inc(report.size_bytes)
            self._metrics.failures_in_a_row.set(0)
            _log.info(
                "export delivered",
                rows=report.row_count,
                size_bytes=report.size_bytes,
                checksum=report.checksum,
                seconds=round(seconds, 3),
            )
        finally:
            self.delivery = None

    def _recorded(self, write: Callable[[], T]) -> T:
        """Write until the database took it, but no longer than the lease: then another has the job."""
        deadline = time.monotonic() + self._settings.lease.total_seconds()
        while True:
            try:
                return write()
            except DatabaseUnavailable as error:
                if time.monotonic() > deadline or self._stop.wait(
                    self._backoff.pause_seconds(error.dependency)
                ):
                    raise

    def _failed(self, job: Job, error: Exception) -> None:
        reason, sentence = _explained(error)
        lost, status = isinstance(error, Aborted), "unrecorded; it is taken again when its lease ends"
        if not lost:
            pause = _FIRST_RETRY * 4 ** min(job.attempt - 1, 4)
            with suppress(DatabaseUnavailable):
                later = not isinstance(error, NotExportable)
                recorded = self._recorded(
                    lambda: self._jobs.fail_attempt(job, sentence, pause, may_succeed_later=later)
                )
                lost, status = recorded is None, recorded or status
        if lost:
            # Whoever has the job now says what becomes of it; a stop gives it back and is no failure.
            _log.warning("claim lost, nothing changed", error=str(error))
            if not self._stop:
                self._metrics.failures.labels(reason="claim_lost").inc()
            return
        self._metrics.failures.labels(reason=reason).inc()
        if not isinstance(error, NotExportable):  # that is no fault of the worker's
            self._metrics.failures_in_a_row.inc()
        if isinstance(error, DependencyError):
            self._metrics.dependency_errors.labels(dependency=error.dependency).inc()
        traceback = None if isinstance(error, AnalyticsError) else error
        _log.error("attempt failed", reason=reason, error=str(error), job_is=status, exc_info=traceback)


def _explained(error: Exception) -> tuple[str, str]:
    """Return the metric's reason and a sentence for the user, which holds no address and no secret."""
    if isinstance(error, ObjectStoreUnavailable):
        return "object_store_unavailable", "The object store did not answer, or not in time."
    if isinstance(error, ObjectStoreRefused):
        return "object_store_refused", f"The object store refused the file ({error.code})."
    if isinstance(error, DatabaseUnavailable):
        return "database_unavailable", "The database did not answer, or not in time."
    if isinstance(error, NotExportable):
        return "not_exportable", str(error)
    if isinstance(error, Standstill):
        return "stalled", "The transfer stalled."
    return "unexpected", "The export failed because of a fault in the service."
