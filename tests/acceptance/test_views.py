"""What readers see: freshness that shows a dead worker, and tenants kept apart."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from deploy.local.api import Api, wait_until
from deploy.local.observer import Observer
from deploy.local.traffic import Publisher, Router, encode, org
from tests.support.fleet import Fleet

MakePublisher = Callable[[], Publisher]


def actor(roles: str, orgs: str | None = None) -> dict[str, str]:
    """Return the headers of an actor."""
    headers = {"X-Actor-Subject": "tester", "X-Actor-Roles": roles}
    return headers | ({"X-Actor-Orgs": orgs} if orgs is not None else {})


def test_a_dead_rollup_worker_shows_as_a_growing_lag_in_the_view_and_in_the_api(
    fleet: Fleet, publisher: MakePublisher, observer: Observer
) -> None:
    now = datetime.now(UTC)
    router = Router(seed=20, start=now - timedelta(minutes=1), end=now, orgs=1)
    gateway, _, worker = fleet.start_ready("gateway", "ingestor", "rollup_worker", FRESHNESS_CACHE_TTL="1s")
    api = Api(gateway.url)

    def lag() -> float:
        return max(float(entry["lagSeconds"]) for entry in api.get(f"/orgs/{org(0)}/freshness")["entries"])

    def lag_in_view() -> float:
        return float(observer.rows("SELECT max(lag_seconds) FROM analytics.freshness_status")[0][0])

    with publisher() as out:
        out.publish(encode(event) for event in router.events(200))
        observer.wait_until_settled(received=200)
        wait_until(lambda: lag() == 0, seconds=10, what="no lag while the worker runs")
        assert lag_in_view() == 0
        worker.kill()
        out.publish(encode(event) for event in router.events(200))
    wait_until(lambda: lag() > 2, seconds=20, what="a lag in the API")
    first, first_in_view = lag(), lag_in_view()
    assert first_in_view > 2
    wait_until(lambda: lag() > first + 2, seconds=20, what="a growing lag in the API")
    assert lag_in_view() > first_in_view + 1
    fleet.start_ready("rollup_worker")
    wait_until(lambda: lag() == 0, seconds=20, what="no lag once a worker runs again")
    assert lag_in_view() == 0


def test_an_organisation_without_events_is_unknown_and_nothing_is_invented(fleet: Fleet) -> None:
    [gateway] = fleet.start_ready("gateway")
    answer = Api(gateway.url).get(f"/orgs/{org(999)}/freshness")
    assert answer["status"] == "unknown"
    assert answer["entries"] == []


@pytest.mark.parametrize("path", ["usage", "freshness"])
def test_organisation_a_never_sees_organisation_b(
    fleet: Fleet, publisher: MakePublisher, observer: Observer, path: str
) -> None:
    now = datetime.now(UTC)
    start = now - timedelta(hours=1)
    theirs = Router(seed=21, start=start, end=now, orgs=2, models=("model-1",)).events(300)
    for event in theirs:
        if event["orgId"] == org(1):
            event["modelId"] = "canary-of-org-b"
    gateway, *_ = fleet.start_ready("gateway", "ingestor", "rollup_worker")
    with publisher() as out:
        out.publish(encode(event) for event in theirs)
    observer.wait_until_settled(received=300)
    window = {
        "start": start.isoformat().replace("+00:00", "Z"),
        "end": now.isoformat().replace("+00:00", "Z"),
    }
    fields = window if path == "usage" else {}

    def ask(org_id: str, headers: dict[str, str]) -> tuple[int, str]:
        answer = Api(gateway.url, headers).call("GET", f"/analytics/v1/orgs/{org_id}/{path}", fields=fields)
        return answer.status, answer.data.decode()

    role = "analytics:usage:read"
    for headers in (actor(role, org(0)), actor(f"org:{org(0)}:{role}")):
        status, own = ask(org(0), headers)
        assert status == 200
        assert "canary-of-org-b" not in own
        assert "model-1" in own
        status, foreign = ask(org(1), headers)
        assert status == 403
        assert "canary" not in foreign
        assert json.loads(foreign)["type"].startswith("urn:problem:analytics:")
    assert ask(org(1), actor(role))[0] == 403
    status, crossed = ask(org(1), actor("admin", org(0)))
    assert status == 200
    assert "canary-of-org-b" in crossed
    assert observer.rows("SELECT decision, org_id::text, actor_subject FROM analytics.audit_log") == [
        ("cross-org", org(1), "tester")
    ]
