"""The worker process: its runners, the heartbeat that keeps their claims, the upkeep, the probes."""

import threading
import time
from collections.abc import Callable, Mapping

import structlog
from prometheus_client import CollectorRegistry

from export_worker.delivery import TIME_LIMIT
from export_worker.gauges import set_gauges
from export_worker.jobs import Jobs
from export_worker.runner import Runner
from export_worker.upkeep import Upkeep
from export_worker.wakeups import Wakeups
from shared.errors import AnalyticsError, DependencyError, ObjectStoreRefused, ObjectStoreUnavailable
from shared.metrics import ExportMetrics
from shared.migrate import SchemaCheck
from shared.postgres import Database
from shared.probe_server import start_probe_server
from shared.process import Parts, Stop, instance_name, join, repeat
from shared.s3 import ObjectStore
from shared.settings import ExportWorkerSettings

_UPKEEP_EVERY_SECONDS = 2
_GAUGES_EVERY_SECONDS = 10
_ASK_STORE_EVERY_SECONDS = 5
_HEARTBEAT_SECONDS = 1

# Whoever stops a process kills it soon after; what takes longer than this is given back instead.
_FINISH_SECONDS = 2.5
_CLOSE_SECONDS = 1

_STUCK_SECONDS = 180

_log: structlog.stdlib.BoundLogger = structlog.get_logger("worker")


class Worker:
    """Runs until the stop."""

    def __init__(self, settings: ExportWorkerSettings, stop: Stop) -> None:
        self._settings = settings
        self._stop = stop
        self._metrics = ExportMetrics(CollectorRegistry())
        self._store = ObjectStore(settings)
        self._wakeups = Wakeups()
        self._schema = SchemaCheck(settings.database_url, "export_worker probe")
        self._heartbeat_jobs = self._jobs("heartbeat")
        self._runners = [
            Runner(
                self._jobs(f"runner {number}", statement_timeout_seconds=TIME_LIMIT.total_seconds()),
                self._store,
                metrics=self._metrics,
                settings=settings,
                stop=stop,
                wakeups=self._wakeups,
                require_schema=self._schema.require,
            )
            for number in range(1, settings.concurrency + 1)
        ]
        self._asked_store = ObjectStore(settings, read_timeout_seconds=3)
        self._beat_at = time.monotonic()
        self._store_fault: str | None = "not asked yet"

    def _open(self, name: str, *, statement_timeout_seconds: float, url: str | None = None) -> Database:
        return Database(
            url or self._settings.database_url,
            application_name=f"export_worker {name}",
            statement_timeout_seconds=statement_timeout_seconds,
        )

    def _jobs(self, name: str, *, statement_timeout_seconds: float = 30, url: str | None = None) -> Jobs:
        return Jobs(
            self._open(name, statement_timeout_seconds=statement_timeout_seconds, url=url),
            worker=instance_name(),
            lease=self._settings.lease,
            max_attempts=self._settings.max_attempts,
        )

    def run(self) -> None:
        """Take and deliver jobs until the stop, then finish them or give them back.

        Raises PartFailed when a part ends by itself.
        """
        parts = Parts(self._stop)
        start_probe_server(self._settings.metrics_port, self._metrics, self._live, self._ready, parts)
        runners = [
            parts.start(f"runner {number}", runner.run) for number, runner in enumerate(self._runners, 1)
        ]
        for name, work, every_seconds in self._loops():
            parts.start(name, lambda work=work, every=every_seconds: self._repeat(work, every))  # type: ignore[misc]
        parts.wait()
        self._wakeups.notify()
        self._finish(runners)
        parts.check()

    def _loops(self) -> list[tuple[str, Callable[[], None], float]]:
        """Return each part's name, its work, and the seconds between two times."""
        upkeep = Upkeep(self._jobs("upkeep"), self._store, self._metrics, self._settings.retention)
        listener = self._jobs("listener", url=self._settings.listen_url)
        gauges_database = self._open("gauges", statement_timeout_seconds=30)
        interval_seconds = self._settings.interval.total_seconds()
        beat_seconds = min(_HEARTBEAT_SECONDS, self._settings.lease.total_seconds() / 3)
        return [
            ("heartbeat", self._beat, beat_seconds),
            ("upkeep", lambda: upkeep.run(self._stop), _UPKEEP_EVERY_SECONDS),
            ("gauges", lambda: set_gauges(gauges_database, self._metrics), _GAUGES_EVERY_SECONDS),
            ("object store check", self._ask_store, _ASK_STORE_EVERY_SECONDS),
            ("listener", lambda: self._listen(listener, interval_seconds), 0),
        ]

    def _finish(self, runners: list[threading.Thread]) -> None:
        """Wait a little for what is under way; give the rest back, so that others begin at once."""
        join(runners, _FINISH_SECONDS)
        jobs = self._jobs("stop")
        for runner in self._runners:
            delivery = runner.delivery
            if delivery is None:
                continue
            delivery.abort("the worker stops")
            try:
                given = jobs.give_back(delivery.job)
                _log.info("job given back" if given else "job was done", job_id=delivery.job.job_id)
            except DependencyError as error:
                _log.warning("job left until its lease ends", job_id=delivery.job.job_id, error=str(error))
        join(runners, _CLOSE_SECONDS)

    def _listen(self, listener: Jobs, seconds: float) -> None:
        if listener.wait_notified(seconds):
            self._wakeups.notify()

    def _beat(self) -> None:
        """Keep the claims of what is under way, show its progress, and end what was lost."""
        self._beat_at = time.monotonic()
        for runner in self._runners:
            delivery = runner.delivery
            if delivery and not self._heartbeat_jobs.extend_lease(delivery.job, delivery.rows_done):
                # Claimed by another worker; or recorded as done a moment ago, and then this does nothing.
                delivery.abort("the claim was lost")

    def _ask_store(self) -> None:
        try:
            self._asked_store.ensure_bucket()
        except ObjectStoreRefused as error:
            # No fault of ours: it shows in /readyz, and it may be mended there while this goes on asking.
            self._store_fault = str(error)
            _log.warning("the object store refuses this worker", error=str(error))
        except ObjectStoreUnavailable as error:
            self._store_fault = str(error)
            raise
        else:
            self._store_fault = None

    def _repeat(self, work: Callable[[], None], every_seconds: float) -> None:
        def step() -> None:
            self._schema.require()
            work()

        repeat(step, every_seconds, self._stop, self._metrics.dependency_errors)

    def _live(self) -> Mapping[str, str]:
        if not self._schema.was_there:
            return {}
        still = time.monotonic() - self._beat_at
        return {"heartbeat": f"has not moved for {still:.0f} s"} if still > _STUCK_SECONDS else {}

    def _ready(self) -> Mapping[str, str]:
        faults = {"s3": self._store_fault} if self._store_fault else {}
        try:
            self._schema.check()
        except AnalyticsError as error:
            faults["postgresql"] = str(error)
        return faults
