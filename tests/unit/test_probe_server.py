"""The probes of a worker: what they answer, and what the metrics tell of it."""

from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client import CollectorRegistry

from shared.metrics import RollupMetrics
from shared.probe_server import probe_app


@pytest.fixture
def faults() -> dict[str, str]:
    """What both checks find; a test fills it."""
    return {}


@pytest.fixture
def app(faults: dict[str, str]) -> WSGIApplication:
    return probe_app(RollupMetrics(CollectorRegistry()), lambda: faults, lambda: faults)


def get(app: WSGIApplication, path: str) -> tuple[str, str]:
    """Return the status and the body."""
    environ: dict[str, object] = {}
    setup_testing_defaults(environ)
    statuses: list[str] = []

    def start_response(status: str, _headers: object, _error: object = None) -> None:
        statuses.append(status)

    body = b"".join(app(environ | {"PATH_INFO": path}, start_response))  # type: ignore[arg-type]  # no writer
    return statuses[0], body.decode()


def test_a_fault_is_named_and_counted_until_the_next_probe_finds_none(
    app: WSGIApplication, faults: dict[str, str]
) -> None:
    faults["postgresql"] = "connection refused"
    assert get(app, "/readyz")[0] == "503 Service Unavailable"
    assert '"postgresql": "connection refused"' in get(app, "/readyz")[1]
    assert "analytics_readiness_failed 1.0" in get(app, "/metrics")[1]
    faults.clear()
    assert get(app, "/readyz")[0] == "200 OK"
    assert "analytics_readiness_failed 0.0" in get(app, "/metrics")[1]


def test_liveness_says_nothing_of_readiness(app: WSGIApplication, faults: dict[str, str]) -> None:
    faults["loop"] = "has not moved"
    assert get(app, "/healthz")[0] == "503 Service Unavailable"
    assert "analytics_readiness_failed 0.0" in get(app, "/metrics")[1]


def test_other_paths_are_not_found(app: WSGIApplication) -> None:
    assert get(app, "/")[0] == "404 Not Found"
