"""The Grafana dashboards as data, and their queries as Grafana would send them."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from deploy.local.alert_rules import MONITORING

FILES = sorted((MONITORING / "dashboards").glob("*.json"))
SQL = "grafana-postgresql-datasource"


def dashboards() -> dict[str, dict[str, Any]]:
    """Return the dashboards by file name."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in FILES}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each panel that shows data, with the name of its file."""
    for name, dashboard in dashboards().items():
        yield from ((name, panel) for panel in dashboard["panels"] if panel["type"] != "row")


def promql(expression: str, *, interval: str) -> str:
    """Fill in Grafana's variables with All chosen, and the interval for rates."""
    filled = expression.replace("$__rate_interval", interval)
    return filled.replace("$org", ".*").replace("$model", ".*")


def sql(
    text: str,
    *,
    orgs: Sequence[str],
    models: Sequence[str],
    dimension: str = "client",
    values: Sequence[str] | None = None,
    window: tuple[datetime, datetime] | None = None,
) -> str:
    """Fill in Grafana's variables and its macros. window: the last six hours by default.

    values: those of the dimension that are chosen; None for All, whose custom value Grafana puts in as it is.
    """
    start, end = (
        f"'{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}'"
        for at in window or (datetime.now(UTC) - timedelta(hours=6), datetime.now(UTC))
    )
    filled = text.replace("$__timeFilter(bucket_start)", f"bucket_start BETWEEN {start} AND {end}")
    filled = filled.replace("$__timeFrom()", start).replace("$__timeTo()", end)
    chosen = {"org": orgs, "model": models, "dimension": [dimension], "dimension_value": values}
    for variable, texts in chosen.items():
        quoted = "NULL" if texts is None else ",".join("'" + text.replace("'", "''") + "'" for text in texts)
        filled = filled.replace(f"${{{variable}:sqlstring}}", quoted)
    return filled


def sql_variables() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each variable whose values come from the database, with the name of its file."""
    for name, dashboard in dashboards().items():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query" and variable["datasource"]["type"] == SQL:
                yield name, variable
