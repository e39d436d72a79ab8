"""compose.yaml: what docker compose would refuse or trip over, and what must agree with the code."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.containers import IMAGES
from deploy.local.launcher import procfile
from deploy.local.stack import PROCESS_ROLES
from shared.settings import (
    ExportWorkerSettings,
    GatewaySettings,
    IngestorSettings,
    MigrateSettings,
    RollupWorkerSettings,
    load,
)
from tests.support.deployment import K8S, ROOT, workloads

SETTINGS: dict[str, type[Any]] = {
    "gateway": GatewaySettings,
    "ingestor": IngestorSettings,
    "rollup_worker": RollupWorkerSettings,
    "export_worker": ExportWorkerSettings,
    "migrate": MigrateSettings,
}
SCALED = tuple(SETTINGS)[:4]
SERVICE_KEYS = {
    "build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "hostname", "image", "ports",
    "read_only", "restart", "security_opt", "shm_size", "stop_grace_period", "tmpfs", "volumes",
}  # fmt: skip

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

each_service = pytest.mark.parametrize("name", SERVICES)
each_process = pytest.mark.parametrize("name", SCALED)


@each_service
def test_a_service_uses_known_keys_and_a_pinned_image(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= SERVICE_KEYS
    assert re.search(r":[\w.-]+$", service["image"])
    assert not service["image"].endswith(":latest")
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "nothing listens on other machines' networks"


@each_service
def test_what_a_service_waits_for_exists_and_can_come(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        if how["condition"] == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"]
        else:
            assert how["condition"] in {"service_started", "service_completed_successfully"}


@each_service
def test_what_a_service_mounts_exists(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source, target, *_ = mount.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).exists()
        else:
            assert source in COMPOSE["volumes"]


def test_no_volume_is_declared_and_not_used() -> None:
    used = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert set(COMPOSE["volumes"]) <= used


@pytest.mark.parametrize("name", SETTINGS)
def test_the_environment_is_what_the_process_reads_and_all_of_it_is_valid(name: str) -> None:
    environ = SERVICES[name]["environment"]
    assert set(environ) <= {item.name for item in SETTINGS[name].declared().values()}
    load(SETTINGS[name], environ)


@each_process
def test_a_process_is_started_by_the_procfiles_command_and_can_be_scaled(name: str) -> None:
    service = SERVICES[name]
    assert service["command"] == shlex.split(procfile()[name].partition("exec ")[2])
    assert "hostname" not in service
    for port in service.get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+-\d+:\d+", port), "one port would be taken by the first"
    assert not [mount for mount in service.get("volumes", []) if not mount.endswith(":ro")]


@each_process
def test_a_process_runs_as_restricted_as_in_kubernetes_and_has_as_long_to_end(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    grace = {found.name: found.pod.get("terminationGracePeriodSeconds") for found in workloads("production")}
    assert service["stop_grace_period"] == f"{grace['analytics-' + name.replace('_', '-')]}s"


@each_process
def test_prometheus_scrapes_every_container_of_a_process_under_the_name_the_alerts_know(name: str) -> None:
    scrapes = yaml.safe_load((ROOT / "deploy/prometheus.yaml").read_text())["scrape_configs"]
    by_job = {scrape["job_name"]: scrape["dns_sd_configs"][0] for scrape in scrapes}
    settings = load(SETTINGS[name], SERVICES[name]["environment"])
    port = getattr(settings, "http_port", None) or settings.metrics_port
    found = by_job["analytics-" + name.replace("_", "-")]
    assert (found["names"], found["port"]) == ([name], port)
    assert f"localhost:{port}/" in SERVICES[name]["healthcheck"]["test"][-1]


def test_prometheus_takes_its_configuration() -> None:
    config = str(ROOT / "deploy/prometheus.yaml")
    subprocess.run(["promtool", "check", "config", "--syntax-only", config], check=True, timeout=30)


def mounts(name: str) -> dict[str, Path]:
    """Return a service's files and folders by where they are mounted."""
    pairs = (mount.split(":") for mount in SERVICES[name]["volumes"])
    return {target: (ROOT / source).resolve() for source, target, *_ in pairs if source.startswith(".")}


def test_rules_and_dashboards_are_the_ones_that_are_tested() -> None:
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus.yaml").read_text())
    [rules] = prometheus["rule_files"]
    assert mounts("prometheus")[rules] == K8S / "monitoring/alerts.yaml"
    [provider] = yaml.safe_load((ROOT / "deploy/grafana/dashboards.yaml").read_text())["providers"]
    assert mounts("grafana")[provider["options"]["path"]] == K8S / "monitoring/dashboards"


def test_grafana_has_a_source_of_every_type_that_the_dashboards_ask_for() -> None:
    sources = yaml.safe_load((ROOT / "deploy/grafana/datasources.yaml").read_text())["datasources"]
    text = "".join(path.read_text() for path in (K8S / "monitoring/dashboards").glob("*.json"))
    wanted = set(re.findall(r'"query": "((?:grafana-)?[a-z-]*(?:prometheus|datasource))"', text))
    assert wanted
    assert wanted <= {source["type"] for source in sources}
    assert {source["url"].split("/")[-1].split(":")[0] for source in sources} <= set(SERVICES)


def test_servers_are_those_of_the_tests() -> None:
    assert SERVICES["timescaledb"]["image"] == SERVICES["logins"]["image"] == IMAGES["PostgreSQL"]
    assert SERVICES["rabbitmq"]["image"] == IMAGES["RabbitMQ"] + "-management"
    assert SERVICES["redis"]["image"] == IMAGES["Redis"]


def test_logins_are_made_for_every_process_and_given_each_password() -> None:
    script = (ROOT / "deploy/logins.sql").read_text(encoding="utf-8")
    for prefix, role in PROCESS_ROLES.items():
        assert f"GRANT {role} TO {prefix.lower()};" in script
    wanted = set(re.findall(r"PASSWORD :'(\w+)'", script))
    given = {found[1] for word in SERVICES["logins"]["command"] if (found := re.match(r"--set=(\w+)=", word))}
    assert given == wanted
