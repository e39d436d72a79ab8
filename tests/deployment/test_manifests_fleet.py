"""The manifests as a whole: scaling within the database's connections, and monitoring from one source."""

import json
import re
from pathlib import Path

import pytest
import yaml

from shared.settings import ExportWorkerSettings, IngestorSettings, load
from tests.support.deployment import K8S, OVERLAYS, ROOT, Object, build, connections, objects, workloads

PRODUCTION = ("production", "production-hpa")
OPERATIONS = ROOT / "docs/operations.md"

each_production = pytest.mark.parametrize("overlay", PRODUCTION)


def most_pods(overlay: str) -> dict[str, int]:
    """Return how many pods of each workload run at most, a rollout's extra one included."""
    scaled = {
        found["spec"]["scaleTargetRef"]["name"]: found["spec"].get("maxReplicas")
        or found["spec"]["maxReplicaCount"]
        for found in objects(build(overlay), "HorizontalPodAutoscaler", "ScaledObject")
    }
    most = {}
    for found in workloads(overlay):
        if found.kind == "Deployment":
            rolling = found.spec["strategy"]["rollingUpdate"]
            assert rolling == {"maxSurge": 1, "maxUnavailable": 0}
            most[found.name] = scaled.pop(found.name, None) or found.spec["replicas"]
            most[found.name] += 1
        else:
            most[found.name] = 1
    assert not scaled, "an autoscaler's target does not exist"
    return most


def documented_budget() -> dict[str, tuple[int, ...]]:
    """Return the rows of the operations page's table: pods, connections of each, together."""
    rows = re.findall(
        r"^\| `?([\w-]+)`? +\| +(\d+) \| +(\d+) \| +(\d+) \|$", OPERATIONS.read_text(), re.MULTILINE
    )
    return {name: tuple(map(int, numbers)) for name, *numbers in rows}


@each_production
def test_all_pods_together_stay_within_the_connections_the_database_allows(overlay: str) -> None:
    pods = most_pods(overlay)
    budget = {
        found.name: (
            pods[found.name],
            connections(found.name, found.environ),
            pods[found.name] * connections(found.name, found.environ),
        )
        for found in workloads(overlay)
    }
    documented = documented_budget()
    for name, row in budget.items():
        assert documented[name] == row
    [limit] = set(re.findall(r"`max_connections` to (\d+)", OPERATIONS.read_text()))
    used = sum(row[2] for row in documented.values())
    reserved_for_superusers, for_people = 3, 10
    assert used + reserved_for_superusers + for_people <= int(limit)


@each_production
def test_what_an_autoscaler_sizes_has_no_size_of_its_own(overlay: str) -> None:
    targets = {
        found["spec"]["scaleTargetRef"]["name"]
        for found in objects(build(overlay), "HorizontalPodAutoscaler", "ScaledObject")
    }
    sized = {
        found["metadata"]["name"]
        for found in objects(build(overlay), "Deployment")
        if "replicas" in found["spec"]
    }
    assert targets == {"analytics-gateway", "analytics-ingestor", "analytics-export-worker"}
    assert sized == {"analytics-rollup-worker"}


def trigger(name: str) -> Object:
    """Return the metadata of a ScaledObject's trigger; its authentication must exist."""
    built = build("production")
    [scaled] = [found for found in objects(built, "ScaledObject") if found["metadata"]["name"] == name]
    [only] = scaled["spec"]["triggers"]
    authentications = {found["metadata"]["name"] for found in objects(built, "TriggerAuthentication")}
    assert only["authenticationRef"]["name"] in authentications
    return dict(only["metadata"])


def test_ingestors_are_scaled_by_their_own_queue_unacknowledged_messages_included() -> None:
    [found] = [found for found in workloads("production") if found.name == "analytics-ingestor"]
    metadata = trigger("analytics-ingestor")
    assert metadata["queueName"] == load(IngestorSettings, found.environ).queue
    assert (metadata["protocol"], metadata["excludeUnacknowledged"]) == ("http", "false")


def test_export_workers_are_scaled_by_the_jobs_one_takes_at_once() -> None:
    [found] = [found for found in workloads("production") if found.name == "analytics-export-worker"]
    concurrency = load(ExportWorkerSettings, found.environ).concurrency
    assert int(trigger("analytics-export-worker")["targetQueryValue"]) == concurrency


@each_production
def test_the_alert_rules_are_the_ones_that_are_tested(overlay: str) -> None:
    [rule] = objects(build(overlay), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((K8S / "monitoring/alerts.yaml").read_text(encoding="utf-8"))


@each_production
def test_every_dashboard_is_deployed_as_it_is(overlay: str) -> None:
    files = sorted((K8S / "monitoring/dashboards").glob("*.json"))
    assert files
    [found] = [
        each
        for each in objects(build(overlay), "ConfigMap")
        if each["metadata"]["name"] == "analytics-dashboards"
    ]
    assert found["data"].keys() == {path.name for path in files}
    for path in files:
        assert json.loads(found["data"][path.name]) == json.loads(path.read_text(encoding="utf-8"))
    assert sum(map(len, found["data"].values())) < 1_000_000  # a ConfigMap holds no more


@each_production
def test_every_process_is_scraped_at_its_port_under_the_name_the_alerts_know(overlay: str) -> None:
    scraped = {}
    for monitor in objects(build(overlay), "PodMonitor"):
        selector = monitor["spec"]["selector"]
        label = monitor["spec"]["jobLabel"]
        names = [
            *selector.get("matchLabels", {}).values(),
            *(value for each in selector.get("matchExpressions", []) for value in each["values"]),
        ]
        [endpoint] = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["path"] == "/metrics"
        for found in workloads(overlay):
            if found.labels["app.kubernetes.io/name"] in names:
                assert endpoint["port"] in {port["name"] for port in found.container["ports"]}
                scraped[found.name] = found.labels[label]
    processes = {found.name for found in workloads(overlay) if found.kind == "Deployment"}
    assert scraped == {name: name for name in processes}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_enforces_the_restricted_profile_and_holds_everything(overlay: str) -> None:
    built = build(overlay)
    [namespace] = objects(built, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = {found["metadata"].get("namespace") for found in built if found is not namespace}
    assert others == {namespace["metadata"]["name"]}


def test_no_manifest_is_left_out_of_every_overlay() -> None:
    kustomizations = "".join(path.read_text() for path in K8S.rglob("kustomization.yaml"))
    tested_elsewhere = {"kustomization.yaml", "secrets.example.yaml", "alert_cases.yaml"}
    files: list[Path] = [path for path in K8S.rglob("*.yaml") if path.name not in tested_elsewhere]
    assert [str(path) for path in files if path.name not in kustomizations] == []
