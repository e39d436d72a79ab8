"""Each process killed at the moments that matter most, and started again: nothing lost, nothing twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.api import wait_until
from deploy.local.checkout import ROOT
from deploy.local.traffic import Router, encode, org
from ingestor.store import BatchStore
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.rollups import Rollups
from rollup_worker.verify import Window, verify
from shared.buckets import bucket_start, rfc3339
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.settings import KeptDimension
from tests.support.cuts import Mix, expected, stored
from tests.support.exports import START, Exports, Rollup, insert_rollups
from tests.support.failpoints import Failpoint
from tests.support.fleet import Fleet, Process
from tests.support.ingestion import Ingestion, results
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch, rows
from tests.support.stores import store_batch, traffic

NOW = datetime.now(UTC)
TODAY = bucket_start(NOW, "day")
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture
def fleet(environ: dict[str, str], tmp_path: Path) -> Iterator[Fleet]:
    processes = Fleet(environ, tmp_path)
    yield processes
    processes.close()


def kill_at(fleet: Fleet, name: str, folder: Path, **environ: str) -> Process:
    """Start a process that kills itself at a point; return it when it has."""
    failpoint = Failpoint(name, folder)
    process = fleet.start(failpoint.process, None, **failpoint.environ, **environ)
    failpoint.wait()
    assert process.popen.wait(timeout=10) == -signal.SIGKILL, process.log_tail()
    return process


def roll_up(worker: Database) -> None:
    assert Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting() == 1


def differences(worker: Database, days: int = 4) -> int:
    """What verify finds."""
    return verify(worker, Window(TODAY - days * DAY, TODAY + DAY), lambda _: None)


def shown(owner: connection) -> int:
    [(events,)] = rows(owner, "SELECT coalesce(sum(invocations), 0) FROM analytics.daily_rollups")
    return int(events)


@pytest.mark.parametrize(("name", "kept"), [("ingestor.stored", 0), ("ingestor.committed", 100)])
def test_events_of_an_ingestor_that_is_killed_around_its_commit_are_counted_once(
    ingestion: Ingestion, tmp_path: Path, name: str, kept: int
) -> None:
    ingestion.publish([encode(Router(seed=1, start=NOW - DAY, end=NOW).events(100))])
    kill_at(ingestion.fleet, name, tmp_path)
    assert ingestion.stored() == kept
    again = ingestion.start()
    ingestion.wait_received(kept + 100)  # it is delivered again
    assert ingestion.stored() == 100
    wait_until(lambda: results(again) == (100 - kept, kept, 0), seconds=10, what="the counts")
    ingestion.assert_all_acknowledged(again)


def test_a_dead_letter_whose_message_was_not_acknowledged_comes_twice_and_counts_nothing(
    ingestion: Ingestion, tmp_path: Path
) -> None:
    events = Router(seed=1, start=NOW - DAY, end=NOW).events(10)
    ingestion.publish([encode([*events, {"eventId": "none"}])])
    kill_at(ingestion.fleet, "ingestor.dead_letter_confirmed", tmp_path)
    ingestion.wait_dead_letters(1)
    again = ingestion.start()
    ingestion.wait_dead_letters(2)
    assert len({each.body for each in ingestion.observer.dead_letters()}) == 1
    assert ingestion.stored() == 10
    ingestion.assert_all_acknowledged(again)


def test_an_ingestor_that_stands_still_between_commit_and_acknowledgement_goes_on(
    ingestion: Ingestion, tmp_path: Path
) -> None:
    failpoint = Failpoint("ingestor.committed", tmp_path, "pause")
    process = ingestion.fleet.start("ingestor", None, **failpoint.environ).wait_ready()
    ingestion.publish([encode(Router(seed=1, start=NOW - DAY, end=NOW).events(100))])
    pid = failpoint.wait()
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, seconds=10, what="a pause")
    assert ingestion.stored() == 100
    os.kill(pid, signal.SIGCONT)
    ingestion.assert_all_acknowledged(process)


@pytest.mark.parametrize(
    "name", ["rollup_worker.hours_added", "rollup_worker.added", "rollup_worker.committed"]
)
def test_a_claim_of_a_rollup_worker_that_is_killed_within_it_is_added_once(
    fleet: Fleet, owner: connection, worker: Database, tmp_path: Path, name: str
) -> None:
    insert_batch(owner, Mix(1, start=TODAY - 2 * DAY, end=NOW).events(300))
    kill_at(fleet, name, tmp_path)
    assert shown(owner) == (300 if name == "rollup_worker.committed" else 0)
    fleet.start("rollup_worker")
    wait_until(lambda: shown(owner) == 300, seconds=20, what="the claim")
    assert differences(worker) == 0


@pytest.mark.parametrize(
    "name", ["rollup_worker.merged", "rollup_worker.past_merged", "rollup_worker.hour_added"]
)
def test_a_past_hour_of_a_rollup_worker_that_is_killed_on_its_way_to_the_day_is_added_once(
    fleet: Fleet, owner: connection, worker: Database, tmp_path: Path, name: str
) -> None:
    only_client = {"ROLLUP_DIMENSIONS": "client"}
    keep_dimensions(worker, (KeptDimension("client"),))
    past = bucket_start(NOW, "hour") - 2 * HOUR
    rows(
        owner,
        "UPDATE analytics.rollup_dimensions SET days_until = %s WHERE name = 'client' RETURNING 1",
        past,
    )
    events = Mix(1, start=past, end=past + timedelta(minutes=59)).events(400)
    for at in (0, 200):  # groups of several rows
        insert_batch(owner, events[at : at + 200])
        roll_up(worker)
    kill_at(fleet, name, tmp_path, **only_client)
    until = "SELECT days_until FROM analytics.rollup_dimensions WHERE name = 'client'"
    assert rows(owner, until) == [(past,)]
    assert rows(owner, "SELECT count(*) FROM analytics.rollups_client_days") == [(0,)]
    assert stored(owner, ["client"]) == expected(events, ["client"])  # whoever reads meanwhile sees the same
    fleet.start("rollup_worker", None, **only_client)
    wait_until(lambda: rows(owner, until) >= [(past + HOUR,)], seconds=20, what="the hour in its day")
    assert stored(owner, ["client"]) == expected(events, ["client"])
    assert differences(worker) == 0


def test_percentiles_are_kept_to_the_end_after_a_kill(
    fleet: Fleet, owner: connection, worker: Database, tmp_path: Path
) -> None:
    insert_batch(owner, Mix(1, start=TODAY - 3 * DAY, end=TODAY - DAY).events(300))
    roll_up(worker)
    unkept = "SELECT count(*) FROM {} WHERE percentiles_of IS DISTINCT FROM invocations"
    unkept = " UNION ALL ".join(unkept.format(f"analytics.{name}_rollups") for name in ("hourly", "daily"))
    kill_at(fleet, "rollup_worker.percentiles_kept", tmp_path)
    assert sum(count for (count,) in rows(owner, unkept)) > 0
    fleet.start("rollup_worker")
    wait_until(lambda: rows(owner, unkept) == [(0,), (0,)], seconds=20, what="the percentiles")


def test_old_rollups_are_removed_together_with_their_record_or_not_at_all(
    fleet: Fleet, owner: connection, worker: Database, tmp_path: Path
) -> None:
    retention = {"ROLLUP_RETENTION": "2d", "ROLLUP_DIMENSIONS": ""}
    insert_batch(owner, Mix(1, start=TODAY - 4 * DAY, end=NOW).events(300))
    roll_up(worker)
    old = (
        "SELECT (SELECT count(*) FROM analytics.hourly_rollups WHERE bucket_start < %s),"
        " (SELECT count(*) FROM analytics.dropped_days)"
    )
    [(before, _)] = rows(owner, old, TODAY - 2 * DAY)
    kill_at(fleet, "rollup_worker.pruned", tmp_path, **retention)
    assert rows(owner, old, TODAY - 2 * DAY) == [(before, 0)]
    fleet.start("rollup_worker", None, **retention)
    wait_until(lambda: rows(owner, old, TODAY - 2 * DAY) == [(0, 2)], seconds=20, what="the retention")
    assert differences(worker, days=2) == 0


def test_a_part_of_the_ledger_loses_no_key_when_its_worker_is_killed(
    fleet: Fleet, new_store: Callable[[], BatchStore], owner: connection, tmp_path: Path
) -> None:
    store, events = new_store(), traffic(250)
    small = {"DEDUPE_PART_KEYS": "200"}
    assert store_batch(store, events) == (250, 250, 0)
    for name in ("rollup_worker.part_closed", "rollup_worker.filter_sent"):
        kill_at(fleet, name, tmp_path, **small)
        assert rows(owner, "SELECT filter_made FROM analytics.key_parts") == [(False,)]
        assert rows(owner, "SELECT count(*) FROM analytics.key_filters") == [(0,)]
        for each in (store, new_store()):
            assert store_batch(each, events) == (250, 0, 0)
    fleet.start("rollup_worker", None, **small)
    made = "SELECT part, keys FROM analytics.key_parts WHERE filter_made"
    wait_until(lambda: rows(owner, made) == [(1, 250)], seconds=20, what="the filter")
    another = new_store()
    assert another.filter_bytes > 0
    assert store_batch(another, events) == (250, 0, 0)


def test_a_rebuild_that_is_killed_half_way_leaves_the_day_as_it_was(
    owner: connection, worker: Database, database: TestDatabase, tmp_path: Path
) -> None:
    insert_batch(owner, Mix(1, start=TODAY - DAY, end=TODAY).events(300))
    roll_up(worker)
    rows(owner, "UPDATE analytics.daily_rollups SET input_tokens = input_tokens + 1 RETURNING 1")
    before = rows(owner, "SELECT * FROM analytics.daily_rollups ORDER BY 1, 2, 3")
    yesterday = f"{TODAY - DAY:%Y-%m-%d}"
    command = [sys.executable, "-m", "rollup_worker", "rebuild", "--from", yesterday, "--to", yesterday]
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": database.rollup_worker_url}
    killed = Failpoint("rollup_worker.day_cleared", tmp_path).environ
    done = subprocess.run(
        command, cwd=ROOT, env=environ | killed, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == -signal.SIGKILL, done
    assert rows(owner, "SELECT * FROM analytics.daily_rollups ORDER BY 1, 2, 3") == before
    subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, timeout=30, check=True)
    assert differences(worker) == 0


@pytest.mark.parametrize(
    ("name", "objects"), [("export_worker.claimed", 0), ("export_worker.object_stored", 1)]
)
def test_a_job_of_an_export_worker_that_is_killed_is_done_by_another_with_one_object(
    fleet: Fleet, exports: Exports, tmp_path: Path, name: str, objects: int
) -> None:
    insert_rollups(exports.owner, "daily_rollups", [Rollup(START + number * DAY) for number in range(7)])
    created = exports.create()
    kill_at(fleet, name, tmp_path, EXPORT_LEASE="2s")
    assert exports.job(created)["status"] == "running"
    assert len(exports.objects()) == objects
    fleet.start("export_worker", None, EXPORT_LEASE="2s", EXPORT_WORKER_INTERVAL="200ms")
    row = exports.wait(created, "succeeded")
    assert len(exports.lines(row)) == 7
    wait_until(lambda: exports.objects() == [row["object_key"]], seconds=20, what="one object alone")


def test_a_removal_of_objects_that_was_not_recorded_is_done_again(
    fleet: Fleet, exports: Exports, tmp_path: Path
) -> None:
    insert_rollups(exports.owner, "daily_rollups", [Rollup(START)])
    created = exports.deliver()
    exports.rows("UPDATE analytics.export_jobs SET expires_at = now() - interval '1 minute'")
    kill_at(fleet, "export_worker.objects_removed", tmp_path)
    job = exports.job(created)
    assert (job["status"], job["object_key"] is None, exports.objects()) == ("expired", False, [])
    fleet.start("export_worker")
    wait_until(lambda: exports.job(created)["object_key"] is None, seconds=20, what="the record")


def test_an_audit_row_and_a_job_stay_when_their_answer_is_lost(
    fleet: Fleet, owner: connection, tmp_path: Path
) -> None:
    window = {"start": rfc3339(TODAY - DAY), "end": rfc3339(TODAY)}
    headers = {"X-Actor-Subject": "me", "X-Actor-Roles": "admin"}
    http = urllib3.PoolManager(retries=False, timeout=10)

    def ask(gateway: Process, method: str, path: str, **body: Any) -> urllib3.BaseHTTPResponse:
        return http.request(
            method, f"{gateway.url}/analytics/v1/orgs/{org(0)}{path}", headers=headers, **body
        )

    job = {"timeRange": window, "granularity": "daily"}
    for method, path, body in (
        ("GET", f"/usage?start={window['start']}&end={window['end']}", {}),
        ("POST", "/exports", {"json": job}),
    ):
        headers["Idempotency-Key"] = "one"
        [gateway] = fleet.start_ready(
            "gateway", WEB_CONCURRENCY="1", **Failpoint("gateway.committed", tmp_path).environ
        )
        with pytest.raises(urllib3.exceptions.ProtocolError):
            ask(gateway, method, path, **body)
        audited = "SELECT count(*) FROM analytics.audit_log WHERE method = %s"
        assert rows(owner, audited, method) == [(1,)]
        gateway.wait_ready()  # gunicorn has started another worker
        assert ask(gateway, method, path, **body).status in {200, 202}
        assert rows(owner, audited, method) == [(2,)]
    assert rows(owner, "SELECT count(*) FROM analytics.export_jobs") == [(1,)]
