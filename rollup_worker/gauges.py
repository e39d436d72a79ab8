"""The numbers that are looked up rather than counted: lag, pending batches, the last five minutes.

They come from the database on a connection of their own, so a stuck rollup shows as a growing lag.
Every worker exports the same truth; dashboards and alerts take the maximum over workers.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from prometheus_client import Gauge

from shared.clock import Clock, utc_now
from shared.db import Database
from shared.latency_histogram import PERCENTILES, percentile_ms
from shared.metrics import RollupMetrics
from shared.statements import load_statements

WINDOW = timedelta(minutes=5)
# An event of the window may have been committed this much before the window by a skewed clock.
_SLACK = timedelta(minutes=1)
_ACTIVE = timedelta(hours=1)
# Reading the window's events may keep a connection busy for this share of the time: where it takes
# seconds, at tens of thousands of events a second, it is done less often.
_BUSY_SHARE = 0.1

_SQL = load_statements("gauges.sql")
_FRESHNESS = load_statements("freshness.sql")

Labels = tuple[str, ...]


@dataclass
class _Recent:
    """What one model of one organisation did in the window."""

    failed: int = 0
    histogram: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def invocations(self) -> int:
        return sum(self.histogram.values())


class Gauges:
    """Reads the database and sets the gauges. For one thread."""

    def __init__(
        self, database: Database, metrics: RollupMetrics, *, most_series: int, clock: Clock = utc_now
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._most_series = most_series
        self._clock = clock
        self._shown: dict[Gauge, set[Labels]] = defaultdict(set)
        self._recent_due = datetime.min.replace(tzinfo=UTC)

    def refresh(self) -> None:
        """Set every gauge to what the database says now. Raises DatabaseUnavailable."""
        now = self._clock()
        with self._database.query() as cur:
            cur.execute(_SQL["pending"])
            count, oldest = cur.fetchone() or (0, None)
            cur.execute(
                _FRESHNESS["lag_by_org"],
                {"as_of": now, "active_since": now - _ACTIVE, "most_series": self._most_series},
            )
            lags: dict[Labels, float] = {(str(org_id),): lag for org_id, lag in cur.fetchall()}
        self._metrics.pending_batches.set(count)
        self._metrics.oldest_pending_seconds.set(max(0.0, (now - oldest).total_seconds()) if oldest else 0)
        self._show(self._metrics.freshness_lag_seconds, lags)
        if now >= self._recent_due:
            began = time.monotonic()
            self._show_recent(self._recent(now))
            self._recent_due = now + timedelta(seconds=(time.monotonic() - began) / _BUSY_SHARE)
            self._metrics.gauges_last_success.set(now.timestamp())

    def _recent(self, now: datetime) -> dict[Labels, _Recent]:
        recent: defaultdict[Labels, _Recent] = defaultdict(_Recent)
        with self._database.query() as cur:
            cur.execute(_SQL["first_recent_batch"], {"since": now - WINDOW - _SLACK})
            row = cur.fetchone()
            if row is None or row[0] is None:
                return recent
            window = {"first_batch": row[0], "start": now - WINDOW, "end": now}
            cur.execute(_SQL["recent_latency"], window)
            for org_id, model_id, failed, number, events in cur.fetchall():
                model = recent[str(org_id), model_id]
                model.failed += events if failed else 0
                model.histogram[number] += events
        return recent

    def _show_recent(self, recent: dict[Labels, _Recent]) -> None:
        """Show the busiest models, up to the bound, and count those left out."""
        busiest = sorted(recent, key=lambda labels: (-recent[labels].invocations, labels))
        shown = {labels: recent[labels] for labels in busiest[: self._most_series]}
        self._metrics.series_left_out.set(len(recent) - len(shown))
        metrics = self._metrics
        self._show(metrics.error_rate, {at: model.failed / model.invocations for at, model in shown.items()})
        self._show(metrics.invocations, {at: model.invocations for at, model in shown.items()})
        for gauge, name in ((metrics.latency_p95_ms, "p95"), (metrics.latency_p99_ms, "p99")):
            values = {at: percentile_ms(model.histogram, PERCENTILES[name]) for at, model in shown.items()}
            self._show(gauge, {at: value for at, value in values.items() if value is not None})

    def _show(self, gauge: Gauge, values: dict[Labels, float] | dict[Labels, int]) -> None:
        """Set a labelled gauge to exactly these series; those that went quiet disappear."""
        for labels in self._shown[gauge] - values.keys():
            gauge.remove(*labels)
        for labels, value in values.items():
            gauge.labels(*labels).set(value)
        self._shown[gauge] = set(values)
