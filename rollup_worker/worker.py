"""The worker process: one thread adds batches, one does the upkeep, one refreshes the gauges."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

import structlog
from prometheus_client import CollectorRegistry

from rollup_worker.gauges import Gauges
from rollup_worker.rollups import Rollups
from rollup_worker.upkeep import Upkeep
from shared.db import Database
from shared.errors import AnalyticsError
from shared.metrics import RollupMetrics
from shared.migrate import check_schema
from shared.probe_server import start_probe_server
from shared.process import Stop, repeat
from shared.settings import RollupWorkerSettings

_UPKEEP_EVERY = timedelta(hours=1)
_GAUGES_EVERY = timedelta(seconds=5)

# A rollup may take its statement limit twice over; a loop silent for longer is stuck.
_STUCK_SECONDS = 180

_log: structlog.stdlib.BoundLogger = structlog.get_logger("worker")


class Worker:
    """Runs until it is told to stop. Three threads, three connections."""

    def __init__(self, settings: RollupWorkerSettings, stop: Stop) -> None:
        self._settings = settings
        self._stop = stop
        self._metrics = RollupMetrics(CollectorRegistry())
        self._moved = time.monotonic()
        self._probe_database = self._open("rollup_worker probe", statement_timeout_seconds=3)
        self._probe_lock = threading.Lock()

    def _open(self, name: str, *, statement_timeout_seconds: float = 60) -> Database:
        return Database(
            self._settings.database_url,
            application_name=name,
            statement_timeout_seconds=statement_timeout_seconds,
        )

    def run(self) -> None:
        """Serve the probes and work until the stop; what is begun is finished."""
        start_probe_server(self._settings.metrics_port, self._metrics, self._live, self._ready)
        database = self._open("rollup_worker rollups")
        rollups = Rollups(database, self._metrics)
        upkeep = Upkeep(self._open("rollup_worker upkeep"), self._settings, self._metrics)
        gauges = Gauges(
            self._open("rollup_worker gauges"), self._metrics, most_series=self._settings.metrics_max_series
        )
        threads = [
            threading.Thread(target=self._repeat, args=(work, every), name=name)
            for name, work, every in (
                ("upkeep", lambda: upkeep.run(self._stop), _UPKEEP_EVERY),
                ("gauges", gauges.refresh, _GAUGES_EVERY),
            )
        ]
        for thread in threads:
            thread.start()
        self._repeat(lambda: self._drain(rollups), self._settings.rollup_interval)
        for thread in threads:
            thread.join()

    def _drain(self, rollups: Rollups) -> None:
        """Add batches until none wait."""
        while not self._stop:
            self._moved = time.monotonic()
            if rollups.add_waiting() == 0:
                return

    def _repeat(self, work: Callable[[], None], every: timedelta) -> None:
        repeat(work, every.total_seconds(), self._stop, self._metrics.dependency_errors)

    def _live(self) -> Mapping[str, str]:
        still = time.monotonic() - self._moved
        return {"rollups": f"the loop has not moved for {still:.0f} s"} if still > _STUCK_SECONDS else {}

    def _ready(self) -> Mapping[str, str]:
        try:
            with self._probe_lock, self._probe_database.query(time_limit_seconds=4) as cur:
                check_schema(cur)
        except AnalyticsError as error:
            return {"postgresql": str(error)}
        return {}
