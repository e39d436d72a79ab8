"""The Grafana dashboards: well formed, linked, their thresholds those of the alerts.

tests/acceptance/test_alerting.py runs every panel's query, tests/integration/test_dashboards.py compares
those of the database with the events.
"""

import re
from typing import Any

import pytest

from deploy.local.alert_rules import alerts
from tests.support.dashboards import SQL, dashboards, panels, sql_variables

DASHBOARDS = dashboards()
PANELS = {f"{name}: {panel['title']}": panel for name, panel in panels()}
RUNBOOK = "https://docs.ai-aas.local/analytics/runbook.md"

# What Grafana knows at these places, as far as it is used here. A misspelt key would be ignored by it.
DASHBOARD_KEYS = {
    "uid", "title", "description", "tags", "timezone", "schemaVersion", "editable", "graphTooltip", "refresh",
    "time", "links", "templating", "panels",
}  # fmt: skip
PANEL_KEYS = {
    "id", "type", "title", "description", "datasource", "gridPos", "fieldConfig", "targets", "options",
}  # fmt: skip
TARGET_KEYS = {
    "prometheus": ({"refId", "datasource", "expr", "legendFormat"}, {"format", "instant"}),
    SQL: ({"refId", "datasource", "rawSql", "rawQuery", "editorMode", "format"}, set()),
}
UNITS = {"short", "s", "ms", "percentunit", "bytes"}


def test_the_three_dashboards_exist() -> None:
    assert set(DASHBOARDS) == {"usage.json", "reliability.json", "fleet.json"}
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_well_formed(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard.keys() == DASHBOARD_KEYS
    assert dashboard["uid"] == f"analytics-{name.removesuffix('.json')}"
    assert dashboard["time"].keys() == {"from", "to"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_panel_lies_over_another_or_past_the_edge(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARDS[name]["panels"]:
        at = panel["gridPos"]
        assert at.keys() == {"x", "y", "w", "h"}
        assert at["x"] + at["w"] <= 24
        for cell in (
            (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
        ):
            assert cell not in taken, f"{panel['title']} lies over {taken[cell]}"
            taken[cell] = panel["title"]


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_is_well_formed(title: str) -> None:
    panel = PANELS[title]
    assert PANEL_KEYS <= panel.keys() <= PANEL_KEYS | {"links"}
    assert panel["type"] in {"timeseries", "stat", "table"}
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        kind = target["datasource"]["type"]
        required, allowed = TARGET_KEYS[kind]
        assert required <= target.keys() <= required | allowed
        assert target["datasource"] == panel["datasource"]
        assert target["datasource"]["uid"] == ("${postgresql}" if kind == SQL else "${prometheus}")


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_variable_a_query_names_is_declared(name: str) -> None:
    dashboard = DASHBOARDS[name]
    declared = {variable["name"] for variable in dashboard["templating"]["list"]}
    named = set(re.findall(r"\$\{?(?!__)(\w+)", str(dashboard["panels"])))
    assert named == declared


@pytest.mark.parametrize("name", ["usage.json", "reliability.json"])
def test_organisation_and_model_are_chosen_from_what_is_measured(name: str) -> None:
    queries = {
        variable["name"]: variable["definition"]
        for variable in DASHBOARDS[name]["templating"]["list"]
        if variable["type"] == "query" and variable["datasource"]["type"] == "prometheus"
    }
    assert queries == {
        "org": "label_values(analytics_usage_recent_invocations, org_id)",
        "model": 'label_values(analytics_usage_recent_invocations{org_id=~"$org"}, model_id)',
    }


@pytest.mark.parametrize("name", ["usage.json", "reliability.json"])
def test_a_dimension_and_its_values_are_chosen_from_what_the_rollups_keep(name: str) -> None:
    """tests/integration/test_dashboards.py runs the queries."""
    dimension, value = (variable for file, variable in sql_variables() if file == name)
    assert (dimension["name"], value["name"]) == ("dimension", "dimension_value")
    assert (dimension["multi"], dimension["includeAll"]) == (False, False)
    assert (value["multi"], value["includeAll"], value["allValue"]) == (True, True, "NULL")
    assert value["refresh"] == 2, "its query asks for the time range"
    for variable in (dimension, value):
        assert variable["query"] == variable["definition"]
    by_dimension = [title for title in PANELS if title.startswith(name) and "$dimension" in title]
    assert len(by_dimension) == 2


@pytest.mark.parametrize("name", DASHBOARDS)
def test_each_dashboard_links_to_the_others_and_to_the_runbook(name: str) -> None:
    others = {f"/d/{other['uid']}" for file, other in DASHBOARDS.items() if file != name}
    assert {link["url"] for link in DASHBOARDS[name]["links"]} == others | {RUNBOOK}


def thresholds(panel: dict[str, Any]) -> list[float]:
    """Return the values at which a line is drawn."""
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {"steps": []})["steps"]
    return [step["value"] for step in steps if step["value"] is not None]


@pytest.mark.parametrize("title", [title for title, panel in PANELS.items() if thresholds(panel)])
def test_a_line_that_is_drawn_is_the_threshold_of_the_alert_the_panel_links_to(title: str) -> None:
    [link] = PANELS[title]["links"]
    alert = alerts()[link["title"]]
    assert link["url"] == alert["annotations"]["runbook_url"]
    compared_with = {float(number) for number in re.findall(r"(?:[<>]=?|==) (\d+(?:\.\d+)?)", alert["expr"])}
    assert set(thresholds(PANELS[title])) <= compared_with
    assert PANELS[title]["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"] == {"mode": "line"}


def test_the_runbooks_six_alerts_are_drawn() -> None:
    drawn = {panel["links"][0]["title"] for panel in PANELS.values() if thresholds(panel)}
    assert drawn >= {name for name in alerts() if re.search("High|Spike", name)}
