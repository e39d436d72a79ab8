"""The manifests, as kustomize builds them, held against Kubernetes' schemas and against the code."""

import copy
import http.client
import json
import re
import runpy
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from falcon.testing import TestClient
from prometheus_client import CollectorRegistry

from deploy.local.launcher import procfile
from export_worker import jobs as export_jobs
from export_worker import worker as export_worker
from gateway.app import create_app
from ingestor import service as ingestor
from shared.metrics import CommonMetrics
from shared.probe_server import start_probe_server
from shared.settings import (
    ExportWorkerSettings,
    GatewaySettings,
    IngestorSettings,
    MigrateSettings,
    RollupWorkerSettings,
    ScheduleMonthlySettings,
    load,
)
from tests.support.deployment import (
    OVERLAYS,
    ROOT,
    Object,
    Workload,
    build,
    example_secrets,
    objects,
    workload,
    workloads,
)

SETTINGS: dict[str, type[Any]] = {
    "analytics-gateway": GatewaySettings,
    "analytics-ingestor": IngestorSettings,
    "analytics-rollup-worker": RollupWorkerSettings,
    "analytics-export-worker": ExportWorkerSettings,
    "analytics-migrate": MigrateSettings,
    "analytics-verify": RollupWorkerSettings,
    "analytics-schedule-monthly": ScheduleMonthlySettings,
}
PROCESSES = tuple(SETTINGS)[:4]
KUBERNETES = "1.33"
"""The oldest version of Kubernetes the manifests are for."""

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
each_workload = pytest.mark.parametrize(
    ("overlay", "name"), [(overlay, name) for overlay in OVERLAYS for name in SETTINGS]
)


def loaded(found: Workload) -> Any:
    """Return the settings the process would read. Raises SettingsError."""
    return load(SETTINGS[found.name], found.environ)


@cache
def custom_resources() -> Any:
    return yaml.safe_load((ROOT / "tests/schemas/custom_resources.yaml").read_text(encoding="utf-8"))


def validate(manifest: Object) -> None:
    """Check an object's form, allowing no unknown field. Raises ValidationError, SchemaNotFoundError."""
    schemas = custom_resources()
    if manifest["kind"] in schemas:
        schema = {**schemas[manifest["kind"]], "$defs": schemas["$defs"]}
        jsonschema.validate(manifest, schema)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@cache
def validate_once(manifest: str) -> None:
    """Validate a manifest's JSON; most are the same in several overlays, and each takes a while."""
    validate(json.loads(manifest))


@each_overlay
def test_every_object_has_the_form_its_kind_demands(overlay: str) -> None:
    for manifest in [*build(overlay), *example_secrets()]:
        validate_once(json.dumps(manifest, sort_keys=True))


@pytest.mark.parametrize("kind", ["Deployment", "ScaledObject"])
def test_an_unknown_field_and_an_unknown_kind_are_refused(kind: str) -> None:
    manifest = copy.deepcopy(objects(build("production"), kind)[0])
    manifest["spec"]["replica"] = 2
    with pytest.raises(jsonschema.ValidationError):
        validate(manifest)
    manifest["kind"] = "Deploymint"
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        validate(manifest)


@each_overlay
def test_exactly_the_known_workloads_run(overlay: str) -> None:
    assert {found.name for found in workloads(overlay)} == set(SETTINGS)
    assert {found.name for found in workloads(overlay) if found.kind == "Deployment"} == set(PROCESSES)


@each_workload
def test_the_environment_is_what_the_process_reads_and_all_of_it_is_valid(overlay: str, name: str) -> None:
    found = workload(overlay, name)
    assert set(found.environ) <= {item.name for item in SETTINGS[name].declared().values()}
    if overlay != "development":  # built Secrets are base64 there
        loaded(found)
    else:
        required = {item.name for item in SETTINGS[name].declared().values() if item.default is None}
        assert required <= set(found.environ)


@each_overlay
def test_settings_that_processes_share_have_one_value(overlay: str) -> None:
    shared = {"S3_ENDPOINT", "S3_BUCKET", "S3_REGION", "EXPORT_RETENTION", "ROLLUP_RETENTION"}
    for setting in shared:
        values = {found.environ[setting] for found in workloads(overlay) if setting in found.environ}
        assert len(values) <= 1, setting


def test_secrets_hold_exactly_the_secret_settings_of_their_process() -> None:
    for secret in example_secrets():
        name = secret["metadata"]["name"]
        if name != "analytics-scaling":  # KEDA's, not a process's
            wanted = {item.name for item in SETTINGS[name].declared().values() if item.secret}
            assert set(secret["stringData"]) == wanted
    logins = {
        re.match(r"postgresql://(\w+):", secret["stringData"]["DATABASE_URL"])[1]  # type: ignore[index]  # a URL without a login fails here
        for secret in example_secrets()
    }
    assert len(logins) == len(example_secrets()), "each process has a login of its own"


@each_overlay
def test_no_secret_setting_stands_in_a_config_map(overlay: str) -> None:
    secret = {item.name for cls in SETTINGS.values() for item in cls.declared().values() if item.secret}
    for found in objects(build(overlay), "ConfigMap"):
        assert not secret & set(found["data"])


@each_workload
def test_a_pod_may_do_nothing_it_need_not(overlay: str, name: str) -> None:
    found = workload(overlay, name)
    pod = found.pod["securityContext"]
    container = found.container["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert found.pod["automountServiceAccountToken"] is False
    [account] = [
        each
        for each in objects(build(overlay), "ServiceAccount")
        if each["metadata"]["name"] == found.pod["serviceAccountName"]
    ]
    assert account["automountServiceAccountToken"] is False
    assert {"cpu", "memory"} <= set(found.container["resources"]["requests"])
    assert "memory" in found.container["resources"]["limits"]


@each_workload
def test_images_are_pinned(overlay: str, name: str) -> None:
    image = workload(overlay, name).container["image"]
    assert re.search(r":[\w.-]+$", image)
    assert not image.endswith(":latest")
    assert image == workload(overlay, "analytics-gateway").container["image"]


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_is_started_by_the_procfiles_command(name: str) -> None:
    command = procfile()[name.removeprefix("analytics-").replace("-", "_")]
    assert workload("production", name).container["command"] == shlex.split(command.partition("exec ")[2])


@pytest.mark.parametrize("name", PROCESSES)
def test_the_named_port_is_the_one_the_process_listens_on_and_its_probes_use_it(name: str) -> None:
    found = workload("production", name)
    settings = loaded(found)
    [port] = found.container["ports"]
    listens_on = settings.http_port if name == "analytics-gateway" else settings.metrics_port
    assert port["containerPort"] == listens_on
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert found.container[probe]["httpGet"]["port"] == port["name"]


def status_of(port: int, path: str) -> int:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client.request("GET", path)
    answer = client.getresponse()
    answer.read()
    client.close()
    return answer.status


@pytest.mark.parametrize("name", PROCESSES)
def test_probes_ask_paths_that_answer(name: str) -> None:
    found = workload("production", name)
    paths = {
        found.container[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    } | {"/metrics"}
    if name == "analytics-gateway":
        # Nothing listens there: the readiness probe has a faulty dependency to name, and still answers.
        nowhere = found.environ | {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/none"}
        client = TestClient(create_app(load(GatewaySettings, nowhere)))
        statuses = {path: client.simulate_get(path).status_code for path in paths - {"/metrics"}}
    else:
        port = start_probe_server(0, CommonMetrics(CollectorRegistry(), name), dict, dict)
        statuses = {path: status_of(port, path) for path in paths}
    assert set(statuses.values()) <= {200, 503}, statuses
    assert statuses[found.container["livenessProbe"]["httpGet"]["path"]] == 200


def test_grace_periods_outlast_the_processes_own_deadlines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    grace = {
        found.name: found.pod["terminationGracePeriodSeconds"]
        for found in workloads("production")
        if found.kind == "Deployment"
    }
    gateway = workload("production", "analytics-gateway")
    for setting, value in gateway.environ.items():
        monkeypatch.setenv(setting, value)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))  # which it would set for later tests too
    graceful_seconds = runpy.run_path(str(ROOT / "gateway/gunicorn_conf.py"))["graceful_timeout"]
    jobs_at_once = loaded(workload("production", "analytics-export-worker")).concurrency
    deadlines = {
        "analytics-gateway": gateway.container["lifecycle"]["preStop"]["sleep"]["seconds"] + graceful_seconds,
        "analytics-ingestor": ingestor.TICK_SECONDS + ingestor.DRAIN_SECONDS + 2 * ingestor.CLOSE_SECONDS,
        "analytics-rollup-worker": 2 * 60,  # shared.postgres ends a transaction at twice its statement limit
        "analytics-export-worker": 0.5
        + export_worker._FINISH_SECONDS
        + jobs_at_once * export_jobs.TIME_LIMIT_SECONDS
        + export_worker._CLOSE_SECONDS,
    }
    assert set(grace) == set(deadlines)
    for name, seconds in deadlines.items():
        assert seconds + 5 <= grace[name], name
    # Who takes over a job that was not given back needs not wait longer than the dying pod had.
    assert (
        loaded(workload("production", "analytics-export-worker")).lease.total_seconds()
        <= grace["analytics-export-worker"]
    )


@each_overlay
def test_budgets_and_spread_speak_of_their_deployments_pods(overlay: str) -> None:
    budgets = {
        found["metadata"]["name"]: found["spec"]["selector"]["matchLabels"]
        for found in objects(build(overlay), "PodDisruptionBudget")
    }
    assert set(budgets) == set(PROCESSES)
    for name in PROCESSES:
        found = workload(overlay, name)
        selectors = [found.spec["selector"]["matchLabels"], budgets[name]]
        selectors += [each["labelSelector"]["matchLabels"] for each in found.pod["topologySpreadConstraints"]]
        assert all(selector == {"app.kubernetes.io/name": name} for selector in selectors)
        assert found.labels["app.kubernetes.io/name"] == name


@each_overlay
def test_cron_jobs_name_commands_that_exist(overlay: str) -> None:
    commands = {
        found.name: found.container["command"] for found in workloads(overlay) if found.kind == "CronJob"
    }
    assert commands == {
        "analytics-verify": ["python", "-m", "rollup_worker", "verify"],
        "analytics-schedule-monthly": ["python", "-m", "export_worker", "schedule-monthly"],
    }
