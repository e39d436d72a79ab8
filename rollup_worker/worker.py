"""The worker process: one thread adds batches, one does the upkeep, two refresh the gauges."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

import structlog
from prometheus_client import CollectorRegistry

from rollup_worker.gauges import BacklogGauges, RecentGauges
from rollup_worker.rollups import Rollups
from rollup_worker.upkeep import Upkeep
from shared.errors import AnalyticsError
from shared.metrics import RollupMetrics
from shared.migrate import check_schema
from shared.postgres import Database
from shared.probe_server import start_probe_server
from shared.process import Parts, Stop, repeat
from shared.settings import RollupWorkerSettings

_UPKEEP_EVERY = timedelta(hours=1)
_GAUGES_EVERY = timedelta(seconds=5)

# A rollup may take its statement limit twice over; a loop silent for longer is stuck.
_STUCK_SECONDS = 180

_log: structlog.stdlib.BoundLogger = structlog.get_logger("worker")


class Worker:
    """Runs until it is told to stop: four threads, each with a connection, and one for the probes."""

    def __init__(self, settings: RollupWorkerSettings, stop: Stop) -> None:
        self._settings = settings
        self._stop = stop
        self._metrics = RollupMetrics(CollectorRegistry())
        self._moved = time.monotonic()
        self._has_schema = False
        self._probe_database = self._open("rollup_worker probe", statement_timeout_seconds=3)
        self._probe_lock = threading.Lock()

    def _open(self, name: str, *, statement_timeout_seconds: float = 60) -> Database:
        return Database(
            self._settings.database_url,
            application_name=name,
            statement_timeout_seconds=statement_timeout_seconds,
        )

    def run(self) -> None:
        """Serve the probes and work until the stop; what is begun is finished.

        Raises PartFailed when a part ends by itself.
        """
        parts = Parts(self._stop)
        start_probe_server(self._settings.metrics_port, self._metrics, self._live, self._ready, parts)
        for name, work, every in self._loops():
            parts.start(name, lambda work=work, every=every: self._repeat(work, every))  # type: ignore[misc]
        parts.wait()
        parts.join()
        parts.check()

    def _loops(self) -> list[tuple[str, Callable[[], None], timedelta]]:
        """Return each part's name, its work, and the pause between two times."""
        rollups = Rollups(self._open("rollup_worker rollups"), self._metrics)
        upkeep = Upkeep(self._open("rollup_worker upkeep"), self._settings, self._metrics)
        max_series = self._settings.metrics_max_series
        backlog = BacklogGauges(self._open("rollup_worker gauges"), self._metrics, max_series=max_series)
        recent = RecentGauges(self._open("rollup_worker recent"), self._metrics, max_series=max_series)
        return [
            ("rollups", lambda: self._drain(rollups), self._settings.rollup_interval),
            ("upkeep", lambda: upkeep.run(self._stop), _UPKEEP_EVERY),
            ("gauges", backlog.refresh, _GAUGES_EVERY),
            ("recent gauges", recent.refresh_if_due, _GAUGES_EVERY),
        ]

    def _drain(self, rollups: Rollups) -> None:
        """Add batches until none wait."""
        while not self._stop:
            self._moved = time.monotonic()
            if rollups.add_waiting() == 0:
                return

    def _repeat(self, work: Callable[[], None], every: timedelta) -> None:
        def step() -> None:
            self._require_schema()
            work()

        repeat(step, every.total_seconds(), self._stop, self._metrics.dependency_errors)

    def _require_schema(self) -> None:
        """Raise DatabaseUnavailable until the database was seen with this release's schema.

        It may still have to be migrated. What is missing later is a fault and ends the process.
        """
        if not self._has_schema:
            self._check_schema()
            self._has_schema = True

    def _check_schema(self) -> None:
        with self._probe_lock, self._probe_database.query(time_limit_seconds=4) as cur:
            check_schema(cur)

    def _live(self) -> Mapping[str, str]:
        if not self._has_schema:
            return {}
        still = time.monotonic() - self._moved
        return {"rollups": f"the loop has not moved for {still:.0f} s"} if still > _STUCK_SECONDS else {}

    def _ready(self) -> Mapping[str, str]:
        try:
            self._check_schema()
        except AnalyticsError as error:
            return {"postgresql": str(error)}
        return {}
