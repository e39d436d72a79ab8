"""The overlay with a pooler: production as it is, and PgBouncer beside it, closed to all but the fleet."""

import configparser
import json
import re

import pytest

from shared.settings import GatewaySettings, load
from tests.deployment.test_manifests import validate_once
from tests.deployment.test_manifests_fleet import OPERATIONS, documented_budget, most_pods
from tests.support.deployment import K8S, Object, build, documents, example_secrets, objects
from tests.support.pooler import CONFIG

NAME = "analytics-pooler"
SECRETS = K8S / "components/pooler/secrets.example.yaml"


def key(found: Object) -> tuple[str, str]:
    """Return what names an object."""
    return found["kind"], found["metadata"]["name"]


@pytest.fixture(scope="module")
def added() -> list[Object]:
    """What the overlay has and production has not."""
    before = {key(found): found for found in build("production")}
    after = {key(found): found for found in build("production-pooler")}
    assert {name: after[name] for name in before} == before
    return [found for name, found in after.items() if name not in before]


def pooler(added: list[Object]) -> Object:
    """Return its Deployment."""
    [found] = objects(added, "Deployment")
    return found


def config() -> configparser.ConfigParser:
    """Return its configuration."""
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.read_string(CONFIG.read_text(encoding="utf-8"))
    return parsed


def test_every_object_has_the_form_its_kind_demands(added: list[Object]) -> None:
    for manifest in [*added, *documents(SECRETS.read_text(encoding="utf-8"))]:
        validate_once(json.dumps(manifest, sort_keys=True))
        assert manifest["metadata"]["namespace"] == "analytics"


def test_it_runs_restricted_with_the_configuration_that_the_tests_run(added: list[Object]) -> None:
    pod = pooler(added)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [config_map] = objects(added, "ConfigMap")
    assert config_map["data"]["pgbouncer.ini"] == CONFIG.read_text(encoding="utf-8")
    folders = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["config"]["configMap"]["name"] == config_map["metadata"]["name"]
    assert container["command"] == ["pgbouncer", f"{folders['config']}/pgbouncer.ini"]
    [secret] = documents(SECRETS.read_text(encoding="utf-8"))
    assert volumes["users"]["secret"]["secretName"] == secret["metadata"]["name"] == NAME
    assert config()["pgbouncer"]["auth_file"] == f"{folders['users']}/{next(iter(secret['stringData']))}"
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_it_knows_the_logins_of_the_processes() -> None:
    [secret] = documents(SECRETS.read_text(encoding="utf-8"))
    known = set(re.findall(r'^"(\w+)" ', secret["stringData"]["userlist.txt"], re.MULTILINE))
    urls = {
        found["metadata"]["name"]: found["stringData"].get("DATABASE_URL", "") for found in example_secrets()
    }
    used = {
        re.match(r"postgresql://(\w+):", urls[f"analytics-{name}"])[1]  # type: ignore[index]
        for name in ("gateway", "ingestor", "rollup-worker", "export-worker")
    }
    assert known == used


def test_the_url_that_its_comment_names_is_one_that_the_gateway_takes() -> None:
    [url] = re.findall(r"DATABASE_URL: (\S+\w)", SECRETS.read_text(encoding="utf-8"))
    assert f"@{NAME}:{config()['pgbouncer']['listen_port']}/" in url
    [gateway] = [found for found in example_secrets() if found["metadata"]["name"] == "analytics-gateway"]
    load(GatewaySettings, {**gateway["stringData"], "DATABASE_URL": url, "S3_ENDPOINT": "s3.example"})


def test_only_the_fleet_reaches_it_and_it_reaches_postgresql(added: list[Object]) -> None:
    port = int(config()["pgbouncer"]["listen_port"])
    template = pooler(added)["spec"]["template"]
    labels = template["metadata"]["labels"]
    [named] = template["spec"]["containers"][0]["ports"]
    assert (named["name"], named["containerPort"]) == ("postgresql", port)
    assert labels["reaches-postgresql"] == "true"
    policies = {found["metadata"]["name"]: found["spec"] for found in objects(added, "NetworkPolicy")}
    fleet, itself = (
        {"matchLabels": {"reaches-postgresql": "true"}},
        {"matchLabels": {"app.kubernetes.io/name": NAME}},
    )
    assert policies["to-pooler"] == {
        "podSelector": fleet,
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": itself}], "ports": [{"port": port, "protocol": "TCP"}]}],
    }
    assert policies["from-fleet-to-pooler"] == {
        "podSelector": itself,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": fleet}], "ports": [{"port": "postgresql", "protocol": "TCP"}]}],
    }
    [service] = objects(added, "Service")
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["ports"][0]["port"] == port


def test_the_documented_sum_of_sessions_is_what_the_manifests_allow(added: list[Object]) -> None:
    pods = pooler(added)["spec"]["replicas"] + 1
    of_pooler = pods * int(config()["pgbouncer"]["max_db_connections"])
    most, budget = most_pods("production"), documented_budget()
    listeners = most["analytics-rollup-worker"] + most["analytics-export-worker"]
    directly = sum(budget[name][2] for name in ("analytics-migrate", "keda", "grafana"))
    text = " ".join(OPERATIONS.read_text(encoding="utf-8").split())
    assert f"{of_pooler} with a rollout's third pod. With the {listeners} listeners" in text
    assert f"PostgreSQL has {of_pooler + listeners + directly} at most" in text
    [limit] = set(re.findall(r"`max_connections` to (\d+)", text))
    assert of_pooler + listeners + directly < int(limit)
