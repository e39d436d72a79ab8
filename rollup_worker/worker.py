"""The worker process: threads that add batches, listen for them, do the upkeep, refresh the gauges."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

import structlog
from prometheus_client import CollectorRegistry

from rollup_worker.days import Days
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.gauges import BacklogGauges, RecentGauges
from rollup_worker.key_parts import KeyParts
from rollup_worker.parts import Shares
from rollup_worker.percentiles import Percentiles
from rollup_worker.rollups import MANY_BATCHES, Rollups
from rollup_worker.upkeep import Upkeep
from shared.errors import AnalyticsError
from shared.metrics import RollupMetrics
from shared.migrate import SchemaCheck
from shared.postgres import Database
from shared.probe_server import start_probe_server
from shared.process import Parts, Stop, repeat
from shared.settings import RollupWorkerSettings
from shared.statements import load_statements

_UPKEEP_EVERY = timedelta(hours=1)
_DAYS_EVERY = timedelta(minutes=1)
_GAUGES_EVERY = timedelta(seconds=5)
_KEY_PARTS_EVERY = timedelta(seconds=2)

# Between two claims there is as much time as the last one took, at most this, so that claims grow with the
# load and each event costs less. After a claim of many batches there is none: larger ones save little.
_MAX_PAUSE_SECONDS = 0.5
_LISTEN = load_statements("dimensions.sql")["listen"]

# A rollup may take its statement limit twice over; a loop silent for longer is stuck.
_STUCK_SECONDS = 180

_log: structlog.stdlib.BoundLogger = structlog.get_logger("worker")


class Worker:
    """Runs until it is told to stop: threads, each with a connection of its own, and one for the probes."""

    def __init__(self, settings: RollupWorkerSettings, stop: Stop) -> None:
        self._settings = settings
        self._stop = stop
        self._metrics = RollupMetrics(CollectorRegistry())
        self._moved = time.monotonic()
        self._keeps_dimensions = False
        self._woken = threading.Event()
        self._many_wait = threading.Event()
        self._schema = SchemaCheck(settings.database_url, "rollup_worker probe")
        self._dimensions_database = self._open("rollup_worker dimensions")

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
        self._woken.set()
        self._many_wait.set()
        parts.join()
        parts.check()

    def _loops(self) -> list[tuple[str, Callable[[], None], timedelta]]:
        """Return each part's name, its work, and the pause between two times."""
        shares = Shares()
        rollups = Rollups(self._open("rollup_worker rollups"), self._metrics, shares=shares)
        beside = self._open("rollup_worker rollups beside")
        more_rollups = Rollups(beside, self._metrics, shares=shares, min_batches=MANY_BATCHES)

        def help_out() -> None:
            self._many_wait.wait()
            self._many_wait.clear()
            while not self._stop and more_rollups.add_waiting():
                pass
            self._woken.set()  # the other may have passed by what was looked at here and left
            beside.close()

        upkeep = Upkeep(self._open("rollup_worker upkeep"), self._settings)
        key_parts = KeyParts(self._open("rollup_worker key parts"), self._settings, self._metrics)
        max_series = self._settings.metrics_max_series
        backlog = BacklogGauges(self._open("rollup_worker gauges"), self._metrics, max_series=max_series)
        recent = RecentGauges(self._open("rollup_worker recent"), self._metrics, max_series=max_series)
        past = self._open("rollup_worker days")
        days, percentiles = Days(past), Percentiles(past)

        def do_hours() -> None:
            days.merge_hours(self._stop)
            days.add_past_hours(self._stop)
            percentiles.keep(self._stop)

        listener = Database(
            self._settings.listen_url or self._settings.database_url,
            application_name="rollup_worker listener",
            statement_timeout_seconds=3,
        )
        return [
            ("rollups", lambda: self._wait_for_more(self._drain(rollups)), timedelta()),
            ("rollups beside", help_out, timedelta()),
            ("listener", lambda: self._listen(listener), timedelta()),
            ("days", do_hours, _DAYS_EVERY),
            ("upkeep", lambda: upkeep.run(self._stop), _UPKEEP_EVERY),
            ("key parts", lambda: key_parts.run(self._stop), _KEY_PARTS_EVERY),
            ("gauges", backlog.refresh, _GAUGES_EVERY),
            ("recent gauges", recent.refresh_if_due, _GAUGES_EVERY),
        ]

    def _drain(self, rollups: Rollups) -> float:
        """Add batches while as many wait as one claim takes; return the seconds to pause."""
        pause = 0.0
        while not self._stop:
            self._moved = began = time.monotonic()
            self._woken.clear()
            if not self._keeps_dimensions:
                keep_dimensions(self._dimensions_database, self._settings.rollup_dimensions)
                self._dimensions_database.close()  # it is not needed again
                self._keeps_dimensions = True
            if rollups.add_waiting() >= MANY_BATCHES:
                self._many_wait.set()
                pause = 0.0
            else:
                pause = min(time.monotonic() - began, _MAX_PAUSE_SECONDS)
            if not rollups.more_wait:
                break
        return pause

    def _wait_for_more(self, pause_seconds: float) -> None:
        """Wait until batches are committed, at most the interval.

        The pause comes first: a claim of more batches costs less for each.
        """
        interval = self._settings.rollup_interval.total_seconds()
        pause = min(interval, pause_seconds)
        if not self._stop.wait(pause):
            self._woken.wait(interval - pause)

    def _listen(self, listener: Database) -> None:
        """Wake the rollups when batches are committed. Where this cannot be heard, the interval does."""
        if listener.wait_notified(_LISTEN, seconds=1):
            self._woken.set()

    def _repeat(self, work: Callable[[], None], every: timedelta) -> None:
        def step() -> None:
            self._schema.require()
            work()

        repeat(step, every.total_seconds(), self._stop, self._metrics.dependency_errors)

    def _live(self) -> Mapping[str, str]:
        if not self._schema.was_there:
            return {}
        still = time.monotonic() - self._moved
        return {"rollups": f"the loop has not moved for {still:.0f} s"} if still > _STUCK_SECONDS else {}

    def _ready(self) -> Mapping[str, str]:
        try:
            self._schema.check()
        except AnalyticsError as error:
            return {"postgresql": str(error)}
        return {}
