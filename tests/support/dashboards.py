"""The Grafana dashboards as data, and their queries as Grafana would send them."""

import json
from collections.abc import Iterator
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


def sql(text: str, *, orgs: list[str], models: list[str]) -> str:
    """Fill in Grafana's variables and its macro for the last hours."""
    filled = text.replace(
        "$__timeFilter(bucket_start)", "bucket_start BETWEEN now() - interval '6 hours' AND now()"
    )
    for variable, values in (("org", orgs), ("model", models)):
        filled = filled.replace(f"${{{variable}:sqlstring}}", ", ".join(f"'{value}'" for value in values))
    return filled
