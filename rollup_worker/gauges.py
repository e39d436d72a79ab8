"""The numbers that are looked up rather than counted: lag, pending batches, the last five minutes.

They come from the database on connections of their own, so a stuck rollup shows as a growing lag. The slow
reads have a connection of their own, so that they never delay the fast ones. What could not be read is not
exported. Every worker exports the same truth; dashboards and alerts take the maximum over workers.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from shared.clock import Clock, utc_now
from shared.exposition import LookedUpGauge
from shared.latency_histogram import PERCENTILES, percentile_ms
from shared.metrics import RollupMetrics
from shared.postgres import Database, Row, fetch_rows
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
_DIMENSIONS = load_statements("dimensions.sql")

Labels = tuple[str, ...]


@dataclass
class _Recent:
    """What one model of one organisation did in the window."""

    failed: int = 0
    histogram: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def invocations(self) -> int:
        return sum(self.histogram.values())


class _Gauges:
    """Gauges that are read over one connection. max_series: how many organisations or models are shown."""

    def __init__(
        self, database: Database, metrics: RollupMetrics, *, max_series: int, clock: Clock = utc_now
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._max_series = max_series
        self._clock = clock


class BacklogGauges(_Gauges):
    """What waits: batches, organisations' lag, and the days that have a partition. For one thread."""

    def refresh(self) -> None:
        """Set each gauge as soon as it is read. Raises DatabaseUnavailable."""
        metrics, now = self._metrics, self._clock()
        # Where one cannot be read, those after it are not either.
        later = [metrics.event_partitions, metrics.rollup_rows, metrics.freshness_lag_seconds]
        with _known_or_absent(metrics.pending_batches, metrics.oldest_pending_seconds, *later):
            [pending] = self._rows(_SQL["pending"])
            oldest = pending["oldest"]
            metrics.pending_batches.set(pending["batches"])
            metrics.oldest_pending_seconds.set(max(0.0, (now - oldest).total_seconds()) if oldest else 0)
        with _known_or_absent(*later):
            [ahead] = self._rows(_SQL["days_ahead"])
            metrics.event_partitions.set(ahead["days"])
        with _known_or_absent(*later[1:]):
            sizes = self._rows(_DIMENSIONS["estimate_rows"])
            metrics.rollup_rows.show({(row["name"], row["grain"]): row["rows"] for row in sizes})
        with _known_or_absent(metrics.freshness_lag_seconds):
            parameters = {"as_of": now, "active_since": now - _ACTIVE, "max_series": self._max_series}
            lags = self._rows(_FRESHNESS["lag_by_org"], parameters)
            metrics.freshness_lag_seconds.show({(str(row["org_id"]),): row["lag_seconds"] for row in lags})

    def _rows(self, statement: str, parameters: dict[str, object] | None = None) -> list[Row]:
        with self._database.query() as cur:
            return fetch_rows(cur, statement, parameters)


class RecentGauges(_Gauges):
    """What the last five minutes' events show by model. For one thread."""

    _due_at = 0.0
    """When to read again, by the monotonic clock: it counts what was spent."""

    def refresh_if_due(self) -> None:
        """Refresh, unless the last time took long and was not long ago. Raises DatabaseUnavailable."""
        began = time.monotonic()
        if began >= self._due_at:
            self.refresh()
            self._due_at = time.monotonic() + (time.monotonic() - began) / _BUSY_SHARE

    def refresh(self) -> None:
        """Read the events and set the gauges. Raises DatabaseUnavailable."""
        now, metrics = self._clock(), self._metrics
        with _known_or_absent(
            metrics.error_rate, metrics.latency_p95_ms, metrics.latency_p99_ms, metrics.invocations,
            metrics.series_left_out,
        ):  # fmt: skip
            self._show(self._recent(now))
        metrics.gauges_last_success.set(now.timestamp())

    def _recent(self, now: datetime) -> dict[Labels, _Recent]:
        recent: defaultdict[Labels, _Recent] = defaultdict(_Recent)
        with self._database.query() as cur:
            [first] = fetch_rows(cur, _SQL["first_recent_batch"], {"since": now - WINDOW - _SLACK})
            if first["batch_id"] is None:
                return recent
            window = {"first_batch": first["batch_id"], "start": now - WINDOW, "end": now}
            for row in fetch_rows(cur, _SQL["recent_latency"], window):
                model = recent[str(row["org_id"]), row["model_id"]]
                model.failed += row["events"] if row["failed"] else 0
                model.histogram[row["bin"]] += row["events"]
        return recent

    def _show(self, recent: dict[Labels, _Recent]) -> None:
        """Show the busiest models, up to the bound, and count those left out."""
        busiest = sorted(recent, key=lambda labels: (-recent[labels].invocations, labels))
        shown = {labels: recent[labels] for labels in busiest[: self._max_series]}
        metrics = self._metrics
        metrics.series_left_out.set(len(recent) - len(shown))
        metrics.error_rate.show({at: model.failed / model.invocations for at, model in shown.items()})
        metrics.invocations.show({at: model.invocations for at, model in shown.items()})
        for gauge, name in ((metrics.latency_p95_ms, "p95"), (metrics.latency_p99_ms, "p99")):
            values = {at: percentile_ms(model.histogram, PERCENTILES[name]) for at, model in shown.items()}
            gauge.show({at: value for at, value in values.items() if value is not None})


@contextmanager
def _known_or_absent(*gauges: LookedUpGauge) -> Iterator[None]:
    """Export no value of these gauges when they cannot be read: an old one would look like a true one."""
    try:
        yield
    except BaseException:
        for gauge in gauges:
            gauge.forget()
        raise
