"""The worker process. Takes no jobs yet: it serves its probes until it is told to stop."""

import threading
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from shared.db import Database
from shared.errors import AnalyticsError
from shared.metrics import ExportMetrics
from shared.migrate import check_schema
from shared.probe_server import start_probe_server
from shared.process import Stop
from shared.settings import ExportWorkerSettings


class Worker:
    """Runs until it is told to stop."""

    def __init__(self, settings: ExportWorkerSettings, stop: Stop) -> None:
        self._settings = settings
        self._stop = stop
        self._registry = CollectorRegistry()
        self._metrics = ExportMetrics(self._registry)
        self._probe_database = Database(
            settings.database_url, application_name="export_worker probe", statement_timeout_seconds=3
        )
        self._probe_lock = threading.Lock()

    def run(self) -> None:
        """Serve the probes until the stop."""
        start_probe_server(self._settings.metrics_port, self._registry, self._live, self._ready)
        while not self._stop.wait(self._settings.interval.total_seconds()):
            pass

    def _live(self) -> Mapping[str, str]:
        return {}

    def _ready(self) -> Mapping[str, str]:
        try:
            with self._probe_lock, self._probe_database.query(time_limit_seconds=4) as cur:
                check_schema(cur)
        except AnalyticsError as error:
            return {"postgresql": str(error)}
        return {}
