"""The runbook's export section, command for command, on real processes."""

import csv
import hashlib
import json
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from deploy.local.api import Api
from deploy.local.observer import Observer
from deploy.local.traffic import Publisher, Router, encode, org
from tests.support.fleet import Fleet

MakePublisher = Callable[[], Publisher]


def curl(*arguments: str) -> str:
    """Run curl as the runbook does and return what it printed."""
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


def test_an_export_is_created_awaited_and_downloaded_and_reconciles_with_usage(
    fleet: Fleet, publisher: MakePublisher, observer: Observer, tmp_path: Path
) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start, end = today - timedelta(days=6), today + timedelta(days=1, seconds=-1)
    gateway, *_ = fleet.start_ready("gateway", "ingestor", "rollup_worker", "export_worker")
    events = Router(seed=30, start=start, end=datetime.now(UTC), orgs=2).events(2_000)
    with publisher() as out:
        out.publish([encode(events[at : at + 100]) for at in range(0, 2_000, 100)])
    observer.wait_until_settled(received=2_000)
    jobs = f"{gateway.url}/analytics/v1/orgs/{org(0)}/exports"
    subject = ("-H", "X-Actor-Subject: user-123")
    utc_text = "%Y-%m-%dT%H:%M:%SZ"
    created = json.loads(
        curl(
            "-X", "POST", jobs, *subject, "-H", "X-Actor-Roles: analytics:exports:create,admin",
            "-H", "Content-Type: application/json", "-d",
            json.dumps({
                "timeRange": {"start": start.strftime(utc_text), "end": end.strftime(utc_text)},
                "granularity": "daily",
            }),
        )
    )  # fmt: skip
    began = time.monotonic()
    while True:
        job = json.loads(
            curl(f"{jobs}/{created['jobId']}", *subject, "-H", "X-Actor-Roles: analytics:exports:read,admin")
        )
        if job["status"] == "succeeded":
            break
        assert job["status"] in {"pending", "running"}, job
        assert time.monotonic() - began < 20, job
        time.sleep(0.1)
    file = tmp_path / "export.csv"
    curl(
        f"{jobs}/{created['jobId']}/download", *subject,
        "-H", "X-Actor-Roles: analytics:exports:download,admin", "-L", "-o", str(file),
    )  # fmt: skip
    data = file.read_bytes()
    assert hashlib.sha256(data).hexdigest() == job["checksum"]
    assert len(data) == job["sizeBytes"]
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert len(rows) == job["rowCount"]
    totals = Api(gateway.url).usage(org(0), start, end)["totals"]
    for column, name in (
        ("invocations", "invocations"), ("errors", "errors"), ("input_tokens", "inputTokens"),
        ("output_tokens", "outputTokens"), ("cost_estimate_cents", "costEstimateCents"),
    ):  # fmt: skip
        assert sum(Decimal(row[column]) for row in rows) == totals[name]
    assert observer.rows("SELECT count(*) FROM analytics.audit_log WHERE path LIKE '%/download'") == [(1,)]
