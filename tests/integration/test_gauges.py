"""The gauges of the last five minutes and of lag, equal to what was put into the database."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import MODELS, Event, Router, org
from rollup_worker.gauges import BacklogGauges, RecentGauges
from rollup_worker.rollups import Rollups
from shared.latency_histogram import PERCENTILES
from shared.metrics import RollupMetrics
from shared.postgres import Database
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch

NOW = datetime.now(UTC)
MINUTE = timedelta(minutes=1)


class GaugesUnderTest:
    """The worker's gauges over its own login, with a clock to set."""

    def __init__(self, url: str, max_series: int) -> None:
        self.now = NOW
        self.database = Database(url, application_name="gauges under test")
        self.registry = CollectorRegistry()
        metrics = RollupMetrics(self.registry)
        self.rollups = Rollups(self.database, metrics, clock=lambda: self.now)
        self.backlog, self.recent = (
            kind(self.database, metrics, max_series=max_series, clock=lambda: self.now)
            for kind in (BacklogGauges, RecentGauges)
        )

    def refresh(self, at: datetime = NOW) -> None:
        self.now = at
        self.backlog.refresh()
        self.recent.refresh()

    def by_label(self, metric: str) -> dict[tuple[str, ...], float]:
        """Return a gauge's series by the values of its labels."""
        return {
            tuple(
                sample.labels[name] for name in ("org_id", "model_id") if name in sample.labels
            ): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == metric
        }

    def value(self, metric: str) -> float | None:
        return self.registry.get_sample_value(metric)


@pytest.fixture
def gauges(database: TestDatabase) -> Iterator[GaugesUnderTest]:
    made = GaugesUnderTest(database.rollup_worker_url, max_series=100)
    yield made
    made.database.close()


def traffic(
    count: int, *, start: datetime = NOW - 10 * MINUTE, end: datetime = NOW + 2 * MINUTE
) -> list[Event]:
    return Router(seed=count, start=start, end=end, error_share=0.3).events(count)


def recent(events: list[Event]) -> dict[tuple[str, ...], list[Event]]:
    """Return the events of the five minutes before NOW by organisation and model."""
    found: defaultdict[tuple[str, ...], list[Event]] = defaultdict(list)
    for event in events:
        if NOW - 5 * MINUTE <= datetime.fromisoformat(event["occurredAt"]) < NOW:
            found[event["orgId"], event["modelId"]].append(event)
    return dict(found)


def test_error_rate_and_percentiles_are_those_of_the_last_five_minutes_events(
    owner: connection, gauges: GaugesUnderTest
) -> None:
    events = traffic(3_000)
    for at in range(0, 3_000, 500):
        insert_batch(owner, events[at : at + 500])
    insert_batch(owner, traffic(200, start=NOW - timedelta(days=2), end=NOW - timedelta(days=1)))
    gauges.refresh()
    wanted = recent(events)
    assert len(wanted) == 15
    assert gauges.by_label("analytics_usage_recent_invocations") == {
        at: len(each) for at, each in wanted.items()
    }
    assert gauges.by_label("analytics_usage_error_rate") == {
        at: sum(event["status"] != "success" for event in each) / len(each) for at, each in wanted.items()
    }
    for name in ("p95", "p99"):
        shown = gauges.by_label(f"analytics_usage_latency_{name}_ms")
        assert shown.keys() == wanted.keys()
        for labels, each in wanted.items():
            latencies = sorted(event["latencyMs"] for event in each)
            quantile = PERCENTILES[name]
            exact = latencies[-(-quantile.numerator * len(latencies) // quantile.denominator) - 1]
            assert abs(shown[labels] - exact) * 100 <= exact, f"{name} of {labels}"


def test_events_count_as_soon_as_they_are_stored_and_not_twice_once_rolled_up(
    owner: connection, gauges: GaugesUnderTest
) -> None:
    insert_batch(owner, traffic(300, start=NOW - 4 * MINUTE, end=NOW - MINUTE))
    gauges.refresh()
    before = gauges.by_label("analytics_usage_recent_invocations")
    assert sum(before.values()) == 300
    assert gauges.rollups.add_waiting() == 1
    gauges.refresh(NOW + timedelta(seconds=30))
    assert gauges.by_label("analytics_usage_recent_invocations") == before


def test_the_series_of_a_model_that_went_quiet_disappear(owner: connection, gauges: GaugesUnderTest) -> None:
    [event] = traffic(1, start=NOW - 4 * MINUTE, end=NOW - 3 * MINUTE)
    insert_batch(owner, [event])
    metrics = [f"analytics_usage_{name}" for name in ("error_rate", "latency_p95_ms", "latency_p99_ms")]
    gauges.refresh()
    for metric in metrics:
        assert gauges.by_label(metric).keys() == {(event["orgId"], event["modelId"])}
    gauges.refresh(NOW + 2 * MINUTE)
    for metric in (*metrics, "analytics_usage_recent_invocations"):
        assert gauges.by_label(metric) == {}


def test_the_busiest_models_are_shown_up_to_the_bound_and_the_rest_is_counted(
    owner: connection, database: TestDatabase
) -> None:
    events = []
    for number, model in enumerate(MODELS, 1):
        router = Router(seed=number, start=NOW - 4 * MINUTE, end=NOW, orgs=1, models=[model])
        events += router.events(10 * number)
    insert_batch(owner, events)
    bounded = GaugesUnderTest(database.rollup_worker_url, max_series=2)
    bounded.refresh()
    busiest = {(org(0), MODELS[4]): 50, (org(0), MODELS[3]): 40}
    assert bounded.by_label("analytics_usage_recent_invocations") == busiest
    assert bounded.by_label("analytics_usage_error_rate").keys() == busiest.keys()
    assert bounded.value("analytics_usage_series_left_out") == 3
    bounded.database.close()


def test_the_lag_of_an_organisation_grows_while_nothing_rolls_up_and_ends_with_the_rollup(
    owner: connection, gauges: GaugesUnderTest
) -> None:
    mine, other = Router(seed=1, start=NOW - MINUTE, end=NOW, orgs=2).events(200), org(1)
    insert_batch(owner, [event for event in mine if event["orgId"] == other], received_at=NOW - 10 * MINUTE)
    gauges.rollups.add_waiting()
    insert_batch(owner, [event for event in mine if event["orgId"] == org(0)], received_at=NOW - 2 * MINUTE)
    for minutes in (0, 1, 60):
        gauges.refresh(NOW + minutes * MINUTE)
        lags = gauges.by_label("analytics_freshness_lag_seconds")
        assert lags[org(0),] == pytest.approx(120 + 60 * minutes)
        assert lags.get((other,), 0) == 0
        assert gauges.value("analytics_rollup_pending_batches") == 1
    # Batches wait since their commit, by the database's clock; the clock of the gauges is an hour ahead.
    ahead = (NOW + 60 * MINUTE - datetime.now(UTC)).total_seconds()
    assert gauges.value("analytics_rollup_oldest_pending_seconds") == pytest.approx(ahead, abs=60)
    gauges.rollups.add_waiting()
    gauges.refresh()
    assert gauges.by_label("analytics_freshness_lag_seconds") == {(org(0),): 0, (other,): 0}
    assert gauges.value("analytics_rollup_pending_batches") == 0
    assert gauges.value("analytics_rollup_oldest_pending_seconds") == 0


def test_the_lag_series_of_an_organisation_without_rollups_for_an_hour_disappears(
    owner: connection, gauges: GaugesUnderTest
) -> None:
    insert_batch(owner, traffic(20))
    gauges.rollups.add_waiting()
    gauges.refresh()
    assert set(gauges.by_label("analytics_freshness_lag_seconds").values()) == {0}
    gauges.refresh(NOW + timedelta(hours=2))
    assert gauges.by_label("analytics_freshness_lag_seconds") == {}


def test_with_more_organisations_than_the_bound_the_worst_lags_are_shown(
    owner: connection, database: TestDatabase
) -> None:
    for number in range(4):
        event = Router(seed=number, start=NOW - MINUTE, end=NOW, orgs=1).event() | {"orgId": org(number)}
        insert_batch(owner, [event], received_at=NOW - number * MINUTE)
    bounded = GaugesUnderTest(database.rollup_worker_url, max_series=2)
    bounded.refresh()
    assert bounded.by_label("analytics_freshness_lag_seconds") == {(org(3),): 180, (org(2),): 120}
    bounded.database.close()


def test_an_empty_database_shows_no_series_and_nothing_pending(gauges: GaugesUnderTest) -> None:
    gauges.refresh()
    for metric in ("analytics_usage_error_rate", "analytics_freshness_lag_seconds"):
        assert gauges.by_label(metric) == {}
    for metric in ("analytics_rollup_pending_batches", "analytics_rollup_oldest_pending_seconds",
                   "analytics_usage_series_left_out"):  # fmt: skip
        assert gauges.value(metric) == 0
