"""The manifests as kustomize builds them, and what a process takes of the database's connections."""

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gateway.app import MAX_STREAMS
from gateway.database import POOL_SIZE
from ingestor.writer import WRITERS

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("development", "production", "production-hpa")

Object = dict[str, Any]


def documents(text: str) -> list[Object]:
    """Return the objects of a YAML stream."""
    return [found for found in yaml.safe_load_all(text) if found]


@cache
def build(overlay: str) -> list[Object]:
    """Return the objects that `kubectl apply -k k8s/overlays/<overlay>` would apply. Not to be changed."""
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run(
        [str(kubectl) if kubectl.exists() else "kubectl", "kustomize", str(K8S / "overlays" / overlay)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower(), done.stderr
    return documents(done.stdout)


def objects(built: Iterable[Object], *kinds: str) -> list[Object]:
    """Return the objects of these kinds."""
    return [found for found in built if found["kind"] in kinds]


def example_secrets() -> list[Object]:
    """Return the Secrets that an operator makes for production."""
    return documents((K8S / "overlays/production/secrets.example.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Workload:
    """A Deployment, Job or CronJob, with its pods' metadata and spec."""

    name: str
    kind: str
    spec: Object
    labels: dict[str, str]
    pod: Object
    environ: dict[str, str]

    @property
    def container(self) -> Object:
        """Its one container."""
        [only] = self.pod["containers"]
        return dict(only)


def workloads(overlay: str) -> Iterator[Workload]:
    """Yield what runs pods, each with the environment its container gets.

    Secrets that the overlay does not have are those of the example.
    """
    built = build(overlay)
    maps = {found["metadata"]["name"]: found["data"] for found in objects(built, "ConfigMap")}
    secrets = {found["metadata"]["name"]: found["stringData"] for found in example_secrets()}
    secrets |= {found["metadata"]["name"]: found["data"] for found in objects(built, "Secret")}
    for found in objects(built, "Deployment", "Job", "CronJob"):
        spec = found["spec"]["jobTemplate"]["spec"] if found["kind"] == "CronJob" else found["spec"]
        template = spec["template"]
        yield Workload(
            found["metadata"]["name"],
            found["kind"],
            found["spec"],
            template["metadata"]["labels"],
            template["spec"],
            _environ(template["spec"]["containers"][0], maps, secrets),
        )


def workload(overlay: str, name: str) -> Workload:
    """Return the workload of this name."""
    return {found.name: found for found in workloads(overlay)}[name]


def _environ(
    container: Object, maps: Mapping[str, dict[str, str]], secrets: Mapping[str, dict[str, str]]
) -> dict[str, str]:
    environ: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            environ |= maps[source["configMapRef"]["name"]]
        else:
            environ |= secrets[source["secretRef"]["name"]]
    for item in container.get("env", []):
        if "value" in item:
            environ[item["name"]] = item["value"]
        else:
            key = item["valueFrom"]["secretKeyRef"]
            environ[item["name"]] = secrets[key["name"]][key["key"]]
    return environ


def connections(name: str, environ: Mapping[str, str]) -> int:
    """Return how many database connections one pod of a workload holds at most, from the code."""
    if name == "analytics-gateway":
        probe = 1
        return int(environ["WEB_CONCURRENCY"]) * (POOL_SIZE + MAX_STREAMS + probe)
    if name == "analytics-export-worker":
        # One a job at once; heartbeat, upkeep, listener, gauges, probe; at the stop one that gives jobs back.
        return int(environ["EXPORT_WORKER_CONCURRENCY"]) + 6
    if name == "analytics-ingestor":
        return WRITERS
    # Rollup worker: two of rollups and of gauges, days, upkeep, key parts, listener, probe. A command: one.
    return 9 if name == "analytics-rollup-worker" else 1
