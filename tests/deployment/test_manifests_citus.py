"""The overlay of a Citus cluster: production as it is, which reaches the coordinator and no node."""

import ipaddress
import re
from typing import Any

from tests.deployment.test_manifests_fleet import OPERATIONS, documented_budget
from tests.support.deployment import Object, build, objects

_SESSIONS_FOR_PEOPLE = 13
_ROLES_OF_GATEWAY = 2
"""One organisation's and all organisations': a session comes to a node as each that it has read as."""


def of_postgresql(overlay: str) -> Any:
    """Return the addresses that the fleet reaches as its database."""
    policies = {found["metadata"]["name"]: found for found in objects(build(overlay), "NetworkPolicy")}
    [rule] = policies["to-postgresql"]["spec"]["egress"]
    [to] = rule["to"]
    return ipaddress.ip_network(to["ipBlock"]["cidr"])


def rest_of(overlay: str) -> list[Object]:
    """Return all objects but that policy."""
    return [found for found in build(overlay) if found["metadata"]["name"] != "to-postgresql"]


def test_nothing_differs_from_production_but_that_the_coordinator_alone_is_reached() -> None:
    assert rest_of("production-citus") == rest_of("production")
    assert of_postgresql("production-citus").subnet_of(of_postgresql("production"))
    assert of_postgresql("production-citus").num_addresses == 2  # it and its standby


def test_the_nodes_have_a_connection_for_each_role_of_each_session() -> None:
    budget = documented_budget()
    sessions = sum(together for _, _, together in budget.values())
    needed = sessions + (_ROLES_OF_GATEWAY - 1) * budget["analytics-gateway"][2]
    text = " ".join(OPERATIONS.read_text(encoding="utf-8").split())
    [said, pool, limit] = map(
        int,
        re.findall(
            r"at most (\d+) at each node.*?`citus.max_shared_pool_size = (\d+)`.*?`max_connections = (\d+)`",
            text,
        )[0],
    )
    assert said == needed <= pool <= limit - _SESSIONS_FOR_PEOPLE
