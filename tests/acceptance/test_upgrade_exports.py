"""Export workers of the release before beside this release: they make the files they know, and no other."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import urllib3
from psycopg2.extensions import connection

from deploy.local.api import wait_until
from deploy.local.checkout import ROOT
from deploy.local.traffic import org
from tests.support.exports import START, Rollup, insert_rollups
from tests.support.fleet import Fleet, Process
from tests.support.release_before import migrate
from tests.support.seed import connect

ADMIN = {"X-Actor-Subject": "user-123", "X-Actor-Roles": "admin", "X-Actor-Orgs": org(0)}
JOBS = f"/analytics/v1/orgs/{org(0)}/exports"
WINDOW = {"start": "2026-03-01T00:00:00Z", "end": "2026-03-03T00:00:00Z"}
CUTS: tuple[dict[str, str], ...] = ({"groupBy": "none"}, {"timeZone": "America/New_York"})


@pytest.fixture
def owner(environ_before: dict[str, str]) -> Iterator[connection]:
    """The owner's connection to a database of the release before that was brought up to date."""
    migrate(environ_before["DATABASE_URL"], ROOT)
    opened = connect(environ_before["DATABASE_URL"])
    hours = [Rollup(START + timedelta(hours=at), model, org(0)) for at in range(48) for model in ("a", "b")]
    days = [
        Rollup(START + timedelta(days=at), model, org(0), invocations=240, errors=24)
        for at in range(2)
        for model in ("a", "b")
    ]
    insert_rollups(opened, "hourly_rollups", hours)
    insert_rollups(opened, "daily_rollups", days)
    yield opened
    opened.close()


def create(gateway: Process, **body: str) -> str:
    answer = urllib3.request(
        "POST",
        gateway.url + JOBS,
        headers={**ADMIN, "Content-Type": "application/json"},
        body=json.dumps({"timeRange": WINDOW} | body).encode(),
    )
    assert answer.status == 202, answer.data
    return str(answer.json()["jobId"])


def wait_for(gateway: Process, job_id: str, status: str) -> Any:
    """Return a job when it has a status."""
    found: dict[str, Any] = {}

    def has_it() -> bool:
        found.update(gateway.get(f"{JOBS}/{job_id}", ADMIN).json())
        return bool(found["status"] == status)

    wait_until(has_it, seconds=30, what=f"a job that is {status}")
    return found


def lines(gateway: Process, job_id: str) -> list[str]:
    answer = gateway.get(f"{JOBS}/{job_id}/download", ADMIN)
    assert answer.status == 302, answer.data
    file = urllib3.request("GET", answer.headers["location"], retries=False)
    return file.data.decode().splitlines()


def rows(owner: connection, job_ids: list[str]) -> list[tuple[Any, ...]]:
    with owner.cursor() as cur:
        cur.execute(
            "SELECT status, attempt, worker FROM analytics.export_jobs WHERE job_id = ANY (%s::uuid[])",
            (job_ids,),
        )
        return cur.fetchall()


def test_an_old_worker_leaves_cuts_alone_whatever_becomes_of_them_and_this_release_delivers_them(
    environ_before: dict[str, str], release_before: Path, owner: connection, tmp_path: Path
) -> None:
    before, after = Fleet(environ_before, tmp_path, release_before), Fleet(environ_before, tmp_path)
    try:
        [gateway] = after.start_ready("gateway")
        [old] = before.start_ready("export_worker", EXPORT_WORKER_INTERVAL="200ms")
        cuts = [create(gateway, **cut) for cut in CUTS]
        # They are the oldest of the queue, and hold nothing up.
        wait_for(gateway, create(gateway), "succeeded")
        assert rows(owner, cuts) == [("pending", 0, None)] * 2

        # A worker of this release took them and vanished, longer ago than its lease.
        with owner.cursor() as cur:
            cur.execute(
                "UPDATE analytics.export_jobs SET status = 'running', attempt = 1, fencing_token = 1,"
                " started_at = now(), worker = 'vanished', lease_until = now() - interval '1 minute'"
                " WHERE job_id = ANY (%s::uuid[])",
                (cuts,),
            )
        plain = create(gateway)
        wait_for(gateway, plain, "succeeded")
        assert rows(owner, cuts) == [("running", 1, "vanished")] * 2
        assert old.popen.poll() is None, old.log_tail()

        after.start_ready("export_worker")
        for cut in cuts:
            wait_for(gateway, cut, "succeeded")
        by_none, by_zone = (lines(gateway, cut) for cut in cuts)
        assert (
            by_none[0]
            == "bucket_start,org_id,invocations,errors,input_tokens,output_tokens,cost_estimate_cents"
        )
        assert by_none[1].startswith(f"2026-03-01T00:00:00Z,{org(0)},480,48,")
        # From the last evening of February in New York to the second of March; nothing was before.
        assert [line.split(",")[:4] for line in by_zone[1:]] == [
            [f"{day}T00:00:00-05:00", org(0), model, str(10 * hours)]
            for day, hours in (("2026-02-28", 5), ("2026-03-01", 24), ("2026-03-02", 19))
            for model in ("a", "b")
        ]
        assert len(lines(gateway, plain)) == 5
        assert old.stop() == 0, old.log_tail()
    finally:
        before.close()
        after.close()
