"""The dashboards' queries of the database, run as Grafana's login runs them, against the events."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import MODELS, Event, Router, org
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.rollups import Rollups
from shared.buckets import bucket_start
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.settings import KeptDimension
from tests.support.dashboards import SQL, panels, sql, sql_variables
from tests.support.logins import make_logins
from tests.support.oracle import MEMBERS, Answer, Question
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch

NOW = datetime.now(UTC)
WINDOW = bucket_start(NOW, "day") - timedelta(days=2), NOW
ORGS = [org(0), org(1)]  # of three
ODD = "it's; --"
SQL_PANELS = {
    f"{name}: {panel['title']}": panel for name, panel in panels() if panel["datasource"]["type"] == SQL
}
BY_DIMENSION = {title: panel for title, panel in SQL_PANELS.items() if "$dimension" in title}
DIMENSIONS = ("client", "actor", "metadata.region")
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def events(owner: connection, database: TestDatabase) -> list[Event]:
    """Three days of events, of which some have no client or an odd one; actors are kept by day."""
    worker = Database(database.rollup_worker_url, application_name="rollups")
    keep_dimensions(worker, tuple(KeptDimension(name, keeps_hours=name != "actor") for name in DIMENSIONS))
    events = Router(seed=11, start=WINDOW[0], end=NOW, error_share=0.2).events(900)
    for number, event in enumerate(events):
        event["clientId"] = (None, ODD, *(f"client-{name}" for name in range(14)))[number % 16]
    insert_batch(owner, events)
    assert Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting()
    worker.close()
    return events


@pytest.fixture
def ask(events: list[Event], database: TestDatabase) -> Iterator[Ask]:
    with closing(psycopg2.connect(make_logins(database)["grafana"])) as grafana, grafana.cursor() as cur:

        def run(text: str, **variables: Any) -> list[dict[str, Any]]:
            cur.execute(sql(text, orgs=ORGS, models=MODELS, window=WINDOW, **variables))
            names = [column.name for column in cur.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cur.fetchall()]

        yield run


def the_query(title: str) -> str:
    [target] = BY_DIMENSION[title]["targets"]
    return str(target["rawSql"])


def by_value(
    events: list[Event], dimension: str, values: list[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Return usage by value of a dimension, worked out from the events."""
    start, end = WINDOW
    asked: dict[str, Any] = {
        "start": start.isoformat(), "end": end.isoformat(), "granularity": "total", "groupBy": dimension,
        "orgId": ORGS, **({MEMBERS.get(dimension, dimension): values} if values else {}),
    }  # fmt: skip
    question = Question(asked, None)
    question.top = None
    return {
        key[3] or "(no value)": sums.usage() | sums.reliability()["errorsByStatus"]
        for key, sums in Answer(question, events).points.items()
    }


@pytest.mark.parametrize("title", SQL_PANELS)
def test_a_panel_of_the_database_shows_data_to_grafanas_login(ask: Ask, title: str) -> None:
    for target in SQL_PANELS[title]["targets"]:
        rows = ask(target["rawSql"])
        assert rows
        assert None not in rows[0].values()
        assert target["format"] == "table" or list(rows[0]) == ["time", "metric", "value"]


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_tables_by_dimension_are_what_the_events_add_up_to(
    ask: Ask, events: list[Event], dimension: str
) -> None:
    everything = by_value(events, dimension)
    some = [value for value in everything if value != "(no value)"][:2]
    for values in (None, some, some[:1]):
        wanted = by_value(events, dimension, values)
        largest = sorted(wanted.values(), key=lambda sums: -sums["costEstimateCents"])[:200]
        usage = ask(the_query("usage.json: Usage by $dimension"), dimension=dimension, values=values)
        assert [row["cents"] for row in usage] == [sums["costEstimateCents"] for sums in largest]
        for row in usage:
            sums = wanted[row["value"]]
            names = ("invocations", "errors", "inputTokens", "outputTokens")
            shown = row["calls"], row["errors"], row["input_tokens"], row["output_tokens"]
            assert shown == tuple(sums[name] for name in names)
        failures = ask(
            the_query("reliability.json: Failures by $dimension"), dimension=dimension, values=values
        )
        assert len(failures) == len(usage)
        for row in failures:
            sums = wanted[row["value"]]
            assert (row["calls"], row["failed"]) == (sums["invocations"], sums["errors"])
            assert {name: row[name] for name in ("error", "timeout", "throttled")}.items() <= sums.items()
            percent = Decimal(100) * sums["errors"] / sums["invocations"]
            assert abs(row["failed_percent"] - percent) <= Decimal("0.005")


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_series_by_dimension_are_the_ten_largest_and_all_others(
    ask: Ask, events: list[Event], dimension: str
) -> None:
    wanted = by_value(events, dimension)
    for title, name in (
        ("usage.json: Cost estimate by $dimension (cents)", "costEstimateCents"),
        ("reliability.json: Failed calls by $dimension", "errors"),
    ):
        rows = ask(the_query(title), dimension=dimension)
        shown: dict[str, Decimal] = {}
        for row in rows:
            shown[row["metric"]] = shown.get(row["metric"], Decimal(0)) + row["value"]
        assert sum(shown.values()) == sum(sums[name] for sums in wanted.values())
        assert len(shown) == min(len(wanted), 11)
        least = min((wanted[value][name] for value in shown if value != "(all others)"), default=0)
        for value, sums in wanted.items():
            assert shown[value] == sums[name] if value in shown else sums[name] <= least


def test_the_variables_tell_the_dimensions_and_their_values(ask: Ask, events: list[Event]) -> None:
    for _, variable in sql_variables():
        if variable["name"] == "dimension":
            assert [row["name"] for row in ask(variable["query"])] == sorted(DIMENSIONS)
            continue
        for dimension in DIMENSIONS:
            values = {row["value"] for row in ask(variable["query"], dimension=dimension)}
            known = by_value(events, dimension).keys() - {"(no value)"}
            assert values <= known
            assert len(values) == min(len(known), 200)


def test_without_organisations_they_show_nothing_and_grafana_may_write_nothing(
    events: list[Event], database: TestDatabase
) -> None:
    with closing(psycopg2.connect(make_logins(database)["grafana"])) as grafana, grafana.cursor() as cur:
        for title in BY_DIMENSION:
            cur.execute(sql(the_query(title), orgs=[""], models=[""], window=WINDOW))
            assert cur.fetchall() == []
        cur.execute("SHOW statement_timeout")
        assert cur.fetchall() == [("30s",)]
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cur.execute("DELETE FROM analytics.rollups")
