"""The network as the manifests open it: pods to the servers they use, the gateway to the outside."""

import pytest

from tests.support.deployment import OVERLAYS, build, objects, workload, workloads

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@each_overlay
def test_a_pod_reaches_the_servers_its_settings_name_and_no_others(overlay: str) -> None:
    settings = {
        "DATABASE_URL": "postgresql",
        "RABBITMQ_URL": "rabbitmq",
        "REDIS_URL": "redis",
        "S3_ENDPOINT": "s3",
    }
    for found in workloads(overlay):
        wanted = {server for setting, server in settings.items() if setting in found.environ}
        if found.name == "analytics-gateway":
            wanted.discard("s3")  # it signs links and asks S3 nothing
        labels = {key.removeprefix("reaches-") for key in found.labels if key.startswith("reaches-")}
        assert labels == wanted, found.name
    opened = {found["metadata"]["name"] for found in objects(build(overlay), "NetworkPolicy")}
    assert {f"to-{server}" for server in settings.values()} <= opened


@each_overlay
def test_the_network_is_closed_but_for_rules_that_name_peers_and_ports(overlay: str) -> None:
    policies = {
        found["metadata"]["name"]: found["spec"] for found in objects(build(overlay), "NetworkPolicy")
    }
    assert policies["default-deny"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(policies["default-deny"])
    for name, spec in policies.items():
        for rule in [*spec.get("egress", []), *spec.get("ingress", [])]:
            assert rule.get("to") or rule.get("from"), name
            assert rule["ports"], name
    ports = {port["name"] for found in workloads(overlay) for port in found.container.get("ports", [])}
    opened = {
        port["port"]
        for spec in policies.values()
        for rule in spec.get("ingress", [])
        for port in rule["ports"]
    }
    assert opened == ports


@each_overlay
def test_only_the_gateways_api_and_console_are_open_to_the_outside(overlay: str) -> None:
    [ingress] = objects(build(overlay), "Ingress")
    [rule] = ingress["spec"]["rules"]
    paths = rule["http"]["paths"]
    assert [path["path"] for path in paths] == ["/analytics/v1", "/analytics/console"]
    path = paths[0]
    assert paths[1]["backend"] == path["backend"]
    [service] = objects(build(overlay), "Service")
    assert service["metadata"]["name"] == path["backend"]["service"]["name"] == "analytics-gateway"
    assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
    [port] = service["spec"]["ports"]
    assert port["name"] == path["backend"]["service"]["port"]["name"]
    gateway = workload(overlay, "analytics-gateway")
    assert port["targetPort"] in {each["name"] for each in gateway.container["ports"]}
    assert service["spec"]["selector"].items() <= gateway.labels.items()
