"""An unexpected error in any part ends the process: exit code 1, the reason as the last line of its log.

The faults are real: a right is revoked or a function is gone, in a fleet that ran well a moment ago.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import urllib3
from psycopg2.extensions import connection

from deploy.local.api import wait_until
from deploy.local.checkout import ROOT
from deploy.local.traffic import Router
from tests.support.fleet import free_port
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch

Start = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def start(environ: dict[str, str]) -> Iterator[Start]:
    """Starts a worker process and waits until it is ready; returns it and its URL."""
    started: list[subprocess.Popen[str]] = []

    def start_worker(name: str, **changes: str) -> tuple[subprocess.Popen[str], str]:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", name],
            cwd=ROOT, text=True, stderr=subprocess.PIPE,
            env={**environ, "DATABASE_URL": environ[f"{name.upper()}_DATABASE_URL"],
                 "METRICS_PORT": str(port), "LOG_FORMAT": "json", **changes},
        )  # fmt: skip
        started.append(process)
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: status(f"{url}/readyz") == 200, seconds=60, what=f"{name} to be ready")
        return process, url

    yield start_worker
    for process in started:
        process.kill()
        process.communicate()


def status(url: str) -> int:
    try:
        return urllib3.request("GET", url, retries=False, timeout=5).status
    except urllib3.exceptions.HTTPError:
        return 0


def metrics(url: str) -> str:
    return urllib3.request("GET", f"{url}/metrics", retries=False, timeout=5).data.decode()


def run(owner: connection, *statements: str) -> None:
    with owner.cursor() as cur:
        for statement in statements:
            cur.execute(statement)


def last_line(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Wait for the process to end by itself; return the last line of its log."""
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1, log
    line: dict[str, Any] = json.loads(log.strip().splitlines()[-1])
    return line


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("rollups", "REVOKE UPDATE ON analytics.ingestion_batches FROM analytics_rollup_worker"),
        ("gauges", "REVOKE EXECUTE ON FUNCTION analytics.model_freshness_at FROM analytics_rollup_worker"),
        ("recent gauges", "ALTER FUNCTION analytics.latency_bin RENAME TO gone"),
    ],
)
def test_a_fault_in_any_part_of_the_rollup_worker_ends_it_with_the_reason(
    owner: connection, start: Start, part: str, fault: str
) -> None:
    process, _ = start("rollup_worker", ROLLUP_INTERVAL="30s" if part != "rollups" else "500ms")
    run(owner, fault)
    if part != "gauges":
        now = datetime.now(UTC)
        insert_batch(owner, Router(seed=1, start=now - timedelta(minutes=1), end=now).events(5))
    line = last_line(process)
    assert line["level"] == "critical"
    assert line["part"] == part or {line["part"], part} <= {"rollups", "recent gauges"}
    assert re.search("permission denied|does not exist", line["reason"]), line


def test_a_fault_in_the_upkeep_of_the_rollup_worker_ends_it_with_the_reason(
    owner: connection, start: Start, environ: dict[str, str]
) -> None:
    run(owner, "REVOKE DELETE ON analytics.ingestion_batches FROM analytics_rollup_worker")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "rollup_worker"],
        cwd=ROOT, text=True, stderr=subprocess.PIPE,
        env={"DATABASE_URL": environ["ROLLUP_WORKER_DATABASE_URL"], "METRICS_PORT": str(port),
             "LOG_FORMAT": "json"},
    )  # fmt: skip
    line = last_line(process)
    assert (line["part"], "permission denied" in line["reason"]) == ("upkeep", True)


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("runner", "REVOKE UPDATE ON analytics.export_jobs FROM analytics_export_worker"),
        ("gauges", "ALTER TABLE analytics.export_jobs RENAME COLUMN started_at TO gone"),
    ],
)
def test_a_fault_in_any_part_of_the_export_worker_ends_it_with_the_reason(
    owner: connection, start: Start, part: str, fault: str
) -> None:
    process, _ = start("export_worker", EXPORT_WORKER_INTERVAL="1s")
    run(owner, fault)
    line = last_line(process)
    assert line["level"] == "critical"
    assert re.search("permission denied|does not exist", line["reason"]), line


def test_a_worker_waits_for_a_schema_that_is_still_to_be_made(environ: dict[str, str]) -> None:
    """Started before the migration, it is not ready; it goes on trying and does not end."""
    empty = environ["DATABASE_URL"].rsplit("/", 1)[0] + "/postgres"
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "rollup_worker"],
        cwd=ROOT, text=True, stderr=subprocess.PIPE,
        env={"DATABASE_URL": empty, "METRICS_PORT": str(port), "LOG_FORMAT": "json"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: status(f"{url}/readyz") == 503, seconds=30, what="the probe's answer")
    time.sleep(2)
    assert process.poll() is None
    assert status(f"{url}/healthz") == 200
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "run python -m shared.migrate" in log


def test_gauges_that_cannot_be_read_go_away_and_come_back(
    owner: connection, start: Start, database: TestDatabase
) -> None:
    """While the database takes no connection, nothing old is shown."""
    _, rollup = start("rollup_worker")
    _, export = start("export_worker")
    names = {
        rollup: ("analytics_event_partitions_ahead", "analytics_rollup_pending_batches",
                 "analytics_rollup_oldest_pending_seconds"),
        export: ("analytics_export_jobs{", "analytics_export_oldest_pending_seconds"),
    }  # fmt: skip

    def shown(name: str) -> bool:
        return any(f"\n{name}" in metrics(url) for url, known in names.items() if name in known)

    everything = [name for known in names.values() for name in known]
    wait_until(lambda: all(map(shown, everything)), seconds=30, what="all gauges")
    name = database.owner_url.rsplit("/", 1)[-1]
    run(
        owner,
        f"ALTER DATABASE {name} CONNECTION LIMIT 0",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = '{name}' AND pid <> pg_backend_pid()",
    )
    wait_until(lambda: not any(map(shown, everything)), seconds=60, what="the gauges to go away")
    run(owner, f"ALTER DATABASE {name} CONNECTION LIMIT -1")
    wait_until(lambda: all(map(shown, everything)), seconds=60, what="the gauges to come back")
