"""The life of an export: links that end, objects that expire, monthly jobs once, numbers to watch."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import urllib3
from prometheus_client import CollectorRegistry

from deploy.local.checkout import ROOT
from export_worker.delivery import Delivery
from export_worker.gauges import set_gauges
from export_worker.jobs import Jobs
from export_worker.monthly import schedule_monthly
from export_worker.upkeep import Upkeep
from shared.metrics import ExportMetrics
from shared.postgres import Database
from shared.process import Stop
from shared.s3 import ObjectStore
from shared.settings import ObjectStoreSettings, load
from tests.support.exports import (
    ORG,
    OTHER_ORG,
    START,
    Exports,
    Rollup,
    Row,
    insert_many,
    insert_rollups,
)
from tests.support.places import TestDatabase

RETENTION = timedelta(days=90)


@pytest.fixture
def worker_database(database: TestDatabase) -> Iterator[Database]:
    opened = Database(database.export_worker_url, application_name="life under test")
    yield opened
    opened.close()


def get(url: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request("GET", url, retries=False, timeout=10)


def link(exports: Exports, row: Row, expires: timedelta = timedelta(minutes=5)) -> str:
    return exports.store.signed_url(
        row["object_key"], expires=expires, file_name="usage.csv", content_type="text/csv"
    )


def upkeep(database: Database, exports: Exports) -> None:
    """Do the upkeep once, as the worker does it every few seconds."""
    jobs = Jobs(database, worker="w", lease=timedelta(seconds=30), max_attempts=3)
    Upkeep(jobs, exports.store, ExportMetrics(CollectorRegistry()), RETENTION).run(Stop())


def test_a_link_downloads_under_the_name_it_was_given(exports: Exports) -> None:
    answer = get(link(exports, exports.deliver()))
    assert answer.status == 200
    assert answer.headers["Content-Disposition"] == 'attachment; filename="usage.csv"'
    assert answer.headers["Content-Type"] == "text/csv"
    assert answer.headers["X-Amz-Server-Side-Encryption"] == "AES256"


def test_a_link_that_was_changed_or_is_over_opens_nothing(exports: Exports) -> None:
    first, second = exports.deliver(), exports.deliver()
    short = link(exports, first, timedelta(seconds=1))
    good = link(exports, first)
    assert get(good).status == 200
    for changed in (
        good.replace(str(first["job_id"]), str(second["job_id"])),
        good.replace("X-Amz-Expires=300", "X-Amz-Expires=900"),
        good.replace("usage.csv", "other.csv"),
        good[:-1] + ("0" if good[-1] != "0" else "1"),
        good.partition("?")[0],
    ):
        assert changed != good
        assert get(changed).status == 403
    time.sleep(2)
    assert get(short).status == 403


def test_signing_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
    environ = {"S3_ENDPOINT": "192.0.2.1:9", "S3_ACCESS_KEY": "k", "S3_SECRET_KEY": "s"}
    url = ObjectStore(load(ObjectStoreSettings, environ)).signed_url(
        "a/b.csv", expires=timedelta(hours=24), file_name="f.csv", content_type="text/csv"
    )
    assert asked == []
    assert url.startswith("https://192.0.2.1:9/analytics-exports/a/b.csv?")


def test_an_endpoint_s_scheme_decides_about_tls() -> None:
    environ = {"S3_ENDPOINT": "http://192.0.2.1:9", "S3_ACCESS_KEY": "k", "S3_SECRET_KEY": "s"}
    url = ObjectStore(load(ObjectStoreSettings, environ)).signed_url(
        "a", expires=timedelta(hours=1), file_name="f", content_type="text/csv"
    )
    assert url.startswith("http://192.0.2.1:9/")


def test_a_job_expires_after_its_retention_and_its_object_is_removed(
    exports: Exports, worker_database: Database
) -> None:
    kept, over = exports.deliver(), exports.deliver()
    exports.rows("UPDATE analytics.export_jobs SET expires_at = now() WHERE job_id = %s", over["job_id"])
    upkeep(worker_database, exports)
    row = exports.job(over)
    assert (row["status"], row["object_key"], row["checksum"]) == ("expired", None, over["checksum"])
    assert exports.job(kept) == kept
    assert exports.objects() == [kept["object_key"]]


def test_objects_of_lost_attempts_are_removed_and_those_of_running_jobs_are_not(
    exports: Exports, worker_database: Database
) -> None:
    jobs = Jobs(worker_database, worker="w", lease=timedelta(seconds=30), max_attempts=1)
    exports.create()
    failing = jobs.claim()
    assert failing is not None
    Delivery(failing, worker_database, exports.store).run()
    assert jobs.fail_attempt(failing, "why", timedelta()) == "failed"
    exports.create()
    running = jobs.claim()
    assert running is not None
    Delivery(running, worker_database, exports.store).run()
    assert exports.objects() == sorted([failing.object_key, running.object_key])
    upkeep(worker_database, exports)
    assert exports.objects() == [running.object_key]


def test_jobs_are_forgotten_after_twice_their_retention(exports: Exports, worker_database: Database) -> None:
    old, recent = exports.create(), exports.create()
    for created, days in ((old, 181), (recent, 179)):
        exports.rows(
            "UPDATE analytics.export_jobs SET status = 'failed', error = 'why',"
            " completed_at = now() - %s * interval '1 day' WHERE job_id = %s", days, created["job_id"],
        )  # fmt: skip
    upkeep(worker_database, exports)
    assert [row["job_id"] for row in exports.rows("SELECT job_id FROM analytics.export_jobs")] == [
        recent["job_id"]
    ]


def test_monthly_jobs_are_made_once_for_each_organisation_with_usage(
    exports: Exports, worker_database: Database
) -> None:
    now = datetime(2026, 4, 15, 12, tzinfo=UTC)
    insert_rollups(
        exports.owner,
        "daily_rollups",
        [
            Rollup(START),
            Rollup(START + timedelta(days=30), "other"),
            Rollup(START - timedelta(days=1), org_id="00000000-0000-4000-8000-00000000000c"),
            Rollup(START + timedelta(days=31), org_id=OTHER_ORG),
            Rollup(START + timedelta(days=5), org_id=OTHER_ORG),
        ],
    )
    # A client's own job and key stand in nobody's way.
    exports.create(granularity="monthly", window_end=START + timedelta(days=31), idempotency_key="monthly")
    assert schedule_monthly(worker_database, now) == 2
    assert schedule_monthly(worker_database, now) == 0
    made = exports.rows("SELECT * FROM analytics.export_jobs WHERE scheduled ORDER BY org_id")
    assert [str(row["org_id"]) for row in made] == [ORG, OTHER_ORG]
    for row in made:
        assert (row["window_start"], row["window_end"]) == (START, START + timedelta(days=31))
        assert (row["granularity"], row["requested_by"]) == ("monthly", "schedule-monthly")
    with exports.worker():
        [line] = [line for line in exports.lines(exports.wait(made[0], "succeeded")) if line[2] == "model"]
    assert line[0] == "2026-03-01T00:00:00Z"
    assert schedule_monthly(worker_database, datetime(2026, 1, 1, tzinfo=UTC)) == 0


def test_the_command_schedules_and_says_how_many(exports: Exports) -> None:
    def run(url: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "export_worker", "schedule-monthly"],
            cwd=ROOT, env={"PATH": os.environ["PATH"], "DATABASE_URL": url},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    last_month = (datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)) - timedelta(
        days=1
    )
    insert_rollups(exports.owner, "daily_rollups", [Rollup(last_month)])
    said = [run(exports.database.export_worker_url) for _ in range(2)]
    assert [done.stdout for done in said] == [
        "1 monthly export jobs created\n",
        "0 monthly export jobs created\n",
    ]
    assert [done.returncode for done in said] == [0, 0]
    failed = run("postgresql://nobody:secret@127.0.0.1:1/nothing")
    assert failed.returncode == 1
    assert "secret" not in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_gauges_tell_states_and_ages(exports: Exports, worker_database: Database) -> None:
    registry = CollectorRegistry()
    metrics = ExportMetrics(registry)
    jobs = Jobs(worker_database, worker="w", lease=timedelta(seconds=30), max_attempts=3)
    for _ in range(3):
        exports.create()
    jobs.claim()
    exports.rows(
        "UPDATE analytics.export_jobs SET created_at = created_at - interval '1 hour',"
        " started_at = started_at - interval '10 minutes'"
    )
    set_gauges(worker_database, metrics)
    assert registry.get_sample_value("analytics_export_jobs", {"status": "pending"}) == 2
    assert registry.get_sample_value("analytics_export_jobs", {"status": "running"}) == 1
    assert registry.get_sample_value("analytics_export_jobs", {"status": "expired"}) == 0
    assert 3600 <= (registry.get_sample_value("analytics_export_oldest_pending_seconds") or 0) < 3700
    assert 600 <= (registry.get_sample_value("analytics_export_oldest_running_seconds") or 0) < 700
    exports.rows("DELETE FROM analytics.export_jobs")
    set_gauges(worker_database, metrics)
    assert registry.get_sample_value("analytics_export_jobs", {"status": "pending"}) == 0
    assert registry.get_sample_value("analytics_export_oldest_pending_seconds") == 0


def test_a_delivery_is_counted_and_no_link_or_secret_is_logged(
    exports: Exports, capfd: pytest.CaptureFixture[str]
) -> None:
    insert_rollups(exports.owner, "daily_rollups", [Rollup(START)])
    with exports.worker() as worker:
        row = exports.wait(exports.create(), "succeeded")
        registry = worker._metrics.registry
        deadline = time.monotonic() + 5
        while not registry.get_sample_value("analytics_export_rows_total"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert registry.get_sample_value("analytics_export_rows_total") == 1
        assert registry.get_sample_value("analytics_export_bytes_total") == row["size_bytes"]
        assert registry.get_sample_value("analytics_export_seconds_count") == 1
    said = "".join(capfd.readouterr())
    assert str(row["job_id"]) in said
    for secret in ("X-Amz-Signature", exports.s3["S3_SECRET_KEY"], exports.s3["S3_ACCESS_KEY"]):
        assert secret not in said


def test_a_job_is_taken_at_once_and_not_at_the_next_interval(exports: Exports) -> None:
    with exports.worker(EXPORT_WORKER_INTERVAL="1h"):
        exports.wait(exports.create(), "succeeded")
        time.sleep(1)  # everything idle
        exports.wait(exports.create(), "succeeded", seconds=30)


@pytest.mark.parametrize("zone", ["UTC", "Etc/UTC"])
def test_memory_does_not_grow_with_the_rows(exports: Exports, worker_database: Database, zone: str) -> None:
    """Both files have several parts; the second has four times the rows. As they are stored, and as a cut."""
    peaks = []
    insert_many(exports.owner, hours=160, models=1_000, name_length=150)
    for hours in (40, 160):
        exports.create(granularity="hourly", window_end=START + timedelta(hours=hours), time_zone=zone)
        peaks.append(_peak_of_one_job(exports))
    small, large = peaks
    assert large < small + 4 * 1024 * 1024
    [row] = exports.rows("SELECT max(row_count) AS most FROM analytics.export_jobs")
    assert row["most"] == 160_000


_ONE_JOB = """
import os, resource
from datetime import timedelta
from export_worker.delivery import Delivery
from export_worker.jobs import Jobs
from shared.postgres import Database
from shared.s3 import ObjectStore
from shared.settings import ExportWorkerSettings, load
settings = load(ExportWorkerSettings, os.environ)
jobs = Jobs(Database(settings.database_url, application_name="one job"), worker="w",
            lease=timedelta(minutes=5), max_attempts=3)
job = jobs.claim()
report = Delivery(job, jobs.database, ObjectStore(settings)).run()
jobs.succeed(job, {**vars(report), "object_key": job.object_key}, timedelta(days=1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def _peak_of_one_job(exports: Exports) -> int:
    """Deliver one job in a process of its own; return the most memory it had, in bytes."""
    environ = {"DATABASE_URL": exports.database.export_worker_url, "PATH": os.environ["PATH"], **exports.s3}
    done = subprocess.run(
        [sys.executable, "-c", _ONE_JOB], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100,
        check=True,
    )  # fmt: skip
    return int(done.stdout)
