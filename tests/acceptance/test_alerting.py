"""Real alerts: a fleet under Prometheus and Alertmanager, errors and latency, a webhook that hears of it."""

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
import urllib3

from deploy.local.alert_rules import alerts, shortened_expression
from deploy.local.api import wait_until
from deploy.local.checkout import ROOT
from deploy.local.stack import LocalStack
from deploy.local.traffic import Router, encode
from tests.support.dashboards import SQL, panels, promql, sql
from tests.support.monitored import DIVISOR, MODELS, ORG, PROCESSES, Scene, monitored_fleet

PANELS = {f"{name}: {panel['title']}": panel for name, panel in panels()}
SQL_PANELS = {title: panel for title, panel in PANELS.items() if panel["datasource"]["type"] == SQL}
PROMETHEUS_PANELS = {title: panel for title, panel in PANELS.items() if title not in SQL_PANELS}

PREPARED = """
set -euo pipefail
curl() { command curl --fail "$@"; }
AS=(-H "X-Actor-Subject: tester" -H "X-Actor-Roles: admin")
"""


def runbook_blocks() -> dict[str, list[tuple[str, str]]]:
    """Return the runbook's blocks that can be run anywhere, each with its language, by heading."""
    blocks: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE):
        heading = section.partition("\n")[0]
        for found in re.finditer(r"^```(bash|sql|python)\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            blocks[heading].append((found[1], found[2]))
    return dict(blocks)


RUNBOOK_BLOCKS = runbook_blocks()


@pytest.fixture(scope="module")
def scene(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The fleet under monitoring, after some ordinary traffic."""
    folder: Path = tmp_path_factory.mktemp("monitored")
    with monitored_fleet(stack, folder) as running:
        yield running


def test_a_fleet_in_order_raises_no_alert(scene: Scene) -> None:
    """Every target is scraped, every expression is evaluated, and none of them finds anything."""
    assert len(scene.monitoring.query("up == 1")) == len(PROCESSES)
    assert len(scene.monitoring.query("analytics_readiness_failed == 0")) == len(PROCESSES)
    assert scene.monitoring.firing() == set()
    assert scene.monitoring.rule_faults() == []


def publish_trouble(scene: Scene) -> None:
    """Publish a minute in which half the calls to the first model fail and all are slow."""
    now = datetime.now(UTC)
    bad = Router(
        seed=8, start=now - timedelta(minutes=1), end=now, orgs=1, models=MODELS[:1],
        error_share=0.5, latency_factor=6,
    )  # fmt: skip
    scene.publisher.publish(encode(event) for event in bad.events(600))


def test_errors_and_latency_of_a_model_reach_whoever_is_on_call(scene: Scene) -> None:
    broken, working = MODELS
    heard = scene.monitoring.webhook.alerts
    heard.clear()
    publish_trouble(scene)
    wanted = {
        "AnalyticsServiceHighErrorRate",
        "AnalyticsServiceErrorRateSpike",
        "AnalyticsServiceHighLatencyP95",
        "AnalyticsServiceLatencySpike",
    }
    wait_until(
        lambda: wanted <= {alert["labels"]["alertname"] for alert in heard},
        seconds=40,
        what=f"{sorted(wanted)} at the webhook; heard {heard}",
    )
    for alert in heard:
        labels, annotations = alert["labels"], alert["annotations"]
        rule = alerts()[labels["alertname"]]
        assert (labels["org_id"], labels["model_id"]) == (ORG, broken)
        assert labels["severity"] == rule["labels"]["severity"]
        assert broken in annotations["summary"]
        assert ORG in annotations["description"]
        assert annotations["runbook_url"] == rule["annotations"]["runbook_url"]
        assert "no value" not in str(annotations)
    assert working not in str(heard)


@pytest.fixture(scope="module")
def after_the_incident(scene: Scene) -> Scene:
    """The same fleet with something for every panel: an alert fires."""
    if not scene.monitoring.firing():
        publish_trouble(scene)
    wait_until(lambda: bool(scene.monitoring.firing()), seconds=30, what="an alert that fires")
    return scene


def has_memory_limit(scene: Scene) -> bool:
    """Return whether the machine that runs the tests limits the fleet's memory, as the gateway sees it."""
    answer = urllib3.request("GET", f"{scene.gateway_url}/metrics", timeout=30)
    return "\nanalytics_memory_limit_bytes " in answer.data.decode()


@pytest.mark.parametrize("title", PROMETHEUS_PANELS)
def test_a_panel_of_prometheus_shows_data(after_the_incident: Scene, title: str) -> None:
    monitoring, now = after_the_incident.monitoring, datetime.now(UTC).timestamp()
    for target in PROMETHEUS_PANELS[title]["targets"]:
        query = shortened_expression(promql(target["expr"], interval="10m"), DIVISOR)
        series = monitoring.query_range(query, after_the_incident.began.timestamp(), now)
        values = [float(value) for each in series for _, value in each["values"]]
        if "analytics_memory_limit_bytes" in query and not has_memory_limit(after_the_incident):
            assert values == []
            continue
        assert [value for value in values if value == value], f"{query} shows nothing"  # noqa: PLR0124  NaN


@pytest.mark.parametrize("title", SQL_PANELS)
def test_a_panel_of_the_database_shows_data(scene: Scene, title: str) -> None:
    """The gateway's role reads what the dashboards read."""
    with (
        closing(psycopg2.connect(scene.environ["GATEWAY_DATABASE_URL"])) as connection,
        connection.cursor() as cur,
    ):
        for target in SQL_PANELS[title]["targets"]:
            cur.execute(sql(target["rawSql"], orgs=[ORG], models=list(MODELS)))
            rows = cur.fetchall()
            assert rows
            assert None not in rows[0]
            columns = [column.name for column in cur.description or ()]
            assert target["format"] == "table" or columns == ["time", "metric", "value"]


@pytest.mark.parametrize("heading", RUNBOOK_BLOCKS)
def test_the_runbooks_commands_run(scene: Scene, heading: str, tmp_path: Path) -> None:
    """All but those of a cluster (marked shell): each does what it says on a running fleet, or fails."""
    for language, text in RUNBOOK_BLOCKS[heading]:
        if language == "sql":
            for statement in filter(str.strip, text.split(";")):
                scene.observer.rows(statement)
            continue
        now = datetime.now(UTC).replace(microsecond=0)
        environ = {
            **scene.environ,
            "API": f"{scene.gateway_url}/analytics/v1",
            "ORG": ORG,
            "MODEL": MODELS[0],
            "START": (now - timedelta(hours=1)).isoformat().replace("+00:00", "Z"),
            "END": now.isoformat().replace("+00:00", "Z"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        script = text if language == "python" else PREPARED + without_jq(text)
        done = subprocess.run(
            [language, "-c", script],
            env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def without_jq(text: str) -> str:
    """Leave out what only shapes the output where the program for it is not installed."""
    return text if shutil.which("jq") else re.sub(r" \| jq .*", "", text)


def test_a_killed_process_is_reported_by_its_name(scene: Scene) -> None:
    """The last test: the fleet is not whole after it."""
    [victim] = [process for process in scene.fleet.processes if process.name == "export_worker"]
    heard = scene.monitoring.webhook.alerts
    heard.clear()
    victim.kill()

    def reported() -> bool:
        wanted = ("AnalyticsServiceProcessAbsent", "analytics-export-worker")
        return wanted in {(alert["labels"]["alertname"], alert["labels"].get("job")) for alert in heard}

    wait_until(reported, seconds=20, what="the absence of the export worker at the webhook")
