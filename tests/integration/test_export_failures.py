"""Exports while something fails: succeeded means whole, one object a job, and every job ends."""

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import shared.postgres.database
from export_worker.delivery import Delivery
from export_worker.jobs import Job, Jobs
from shared.errors import DatabaseUnavailable, ObjectStoreRefused, ObjectStoreUnavailable
from shared.postgres import Database
from shared.s3 import ObjectStore
from shared.settings import ObjectStoreSettings, load
from tests.support.exports import ORG, START, Exports, Row, insert_many
from tests.support.fleet import Fleet, Process
from tests.support.tcp_proxy import TcpProxy

HOURLY = {"granularity": "hourly", "window_end": START + timedelta(days=31)}
any_way = pytest.mark.parametrize("zone", ["UTC", "Etc/UTC"])
"""A file that is copied as it is stored, and the same rows as a cut, summed and read bit by bit."""
# With names of 200 characters: a file of more than one part.
HOURS, MODELS = 120, 200


@pytest.fixture
def proxy(s3: dict[str, str]) -> Iterator[TcpProxy]:
    """Stands before S3 for the workers alone."""
    with TcpProxy.before(f"http://{s3['S3_ENDPOINT']}") as opened:
        yield opened


@pytest.fixture
def fleet(exports: Exports, proxy: TcpProxy, tmp_path: Path) -> Iterator[Fleet]:
    environ = {
        "DATABASE_URL": exports.database.export_worker_url,
        **exports.s3,
        "S3_ENDPOINT": f"127.0.0.1:{proxy.port}",
        "EXPORT_LEASE": "2s",
    }
    processes = Fleet(environ, tmp_path)
    yield processes
    processes.close()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def begun_upload(exports: Exports, fleet: Fleet, proxy: TcpProxy, zone: str = "UTC") -> tuple[Process, Row]:
    """Start a worker and return once it has uploaded a part of a large job's file, slowly."""
    insert_many(exports.owner, HOURS, MODELS, name_length=200)
    [worker] = fleet.start_ready("export_worker")
    proxy.delay_seconds = 1
    created = exports.create(**HOURLY, time_zone=zone)
    wait_until(lambda: exports.unfinished_uploads() == 1, "an upload under way")
    return worker, created


def assert_whole(exports: Exports, row: Row) -> None:
    """Exactly one object, with every row of the window."""
    assert len(exports.lines(row)) == HOURS * MODELS
    wait_until(lambda: exports.objects() == [row["object_key"]], "one object alone")
    wait_until(lambda: exports.unfinished_uploads() == 0, "no unfinished upload")


@any_way
def test_a_worker_killed_mid_upload_loses_its_job_to_another_and_its_parts_are_removed(
    exports: Exports, fleet: Fleet, proxy: TcpProxy, zone: str
) -> None:
    worker, created = begun_upload(exports, fleet, proxy, zone)
    wait_until(lambda: exports.job(created)["rows_done"] > 0, "progress")
    worker.kill()
    assert exports.job(created)["status"] == "running"
    proxy.delay_seconds = 0
    fleet.start("export_worker")
    row = exports.wait(created, "succeeded")
    assert (row["attempt"], row["fencing_token"]) == (2, 2)
    assert_whole(exports, row)


@any_way
@pytest.mark.alone
def test_a_worker_that_stops_gives_a_long_job_back_without_an_attempt_used(
    exports: Exports, fleet: Fleet, proxy: TcpProxy, zone: str
) -> None:
    worker, created = begun_upload(exports, fleet, proxy, zone)
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 5
    row = exports.job(created)
    assert (row["status"], row["attempt"], row["error"]) == ("pending", 0, None)
    proxy.delay_seconds = 0
    fleet.start("export_worker")
    row = exports.wait(created, "succeeded")
    assert (row["attempt"], row["fencing_token"]) == (1, 2)
    assert_whole(exports, row)


def test_a_worker_that_stops_finishes_a_short_job(exports: Exports, fleet: Fleet, proxy: TcpProxy) -> None:
    [worker] = fleet.start_ready("export_worker")
    proxy.delay_seconds = 0.3
    created = exports.create()
    exports.wait(created, "running", "succeeded")
    assert worker.stop() == 0
    assert exports.job(created)["status"] == "succeeded"


def test_a_worker_frozen_past_its_lease_changes_nothing_when_it_wakes(
    exports: Exports, fleet: Fleet, proxy: TcpProxy
) -> None:
    zombie, created = begun_upload(exports, fleet, proxy)
    zombie.send(signal.SIGSTOP)
    proxy.delay_seconds = 0
    other = fleet.start("export_worker")
    row = exports.wait(created, "succeeded")
    assert row["fencing_token"] == 2
    zombie.send(signal.SIGCONT)
    wait_until(lambda: "claim lost, nothing changed" in zombie.log.read_text(), "the zombie noticing")
    assert exports.job(created) | {"leftovers": False} == row | {"leftovers": False}
    assert_whole(exports, row)
    assert (zombie.popen.poll(), other.popen.poll()) == (None, None)


def test_a_worker_frozen_between_a_statement_and_its_commit_holds_its_job_no_longer_than_its_lease(
    exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def jobs() -> Jobs:
        database = Database(exports.database.export_worker_url, application_name="test")
        return Jobs(database, worker="w", lease=timedelta(seconds=1), max_attempts=3)

    exports.create()
    zombie, other = jobs(), jobs()
    job = zombie.claim()
    assert job is not None
    with monkeypatch.context() as frozen:
        frozen.setattr(shared.postgres.database, "_commit", lambda _: None)
        assert zombie.extend_lease(job, 1)
    wait_until(lambda: other.claim() is not None, "the job for another worker", seconds=10)
    with pytest.raises(DatabaseUnavailable):
        zombie.extend_lease(job, 2)
    assert not zombie.extend_lease(job, 2)


def test_a_zombie_that_has_uploaded_removes_its_own_object_only(exports: Exports) -> None:
    created = exports.create()

    def jobs() -> Jobs:
        database = Database(exports.database.export_worker_url, application_name="test")
        return Jobs(database, worker="w", lease=timedelta(milliseconds=50), max_attempts=3)

    def deliver(one: Jobs) -> tuple[Job, Delivery, Row]:
        job = one.claim()
        assert job is not None
        delivery = Delivery(job, one.database, exports.store)
        return job, delivery, {**vars(delivery.run()), "object_key": job.object_key}

    zombie, other = jobs(), jobs()
    old, late, old_result = deliver(zombie)
    time.sleep(0.1)
    new, _, result = deliver(other)
    assert other.succeed(new, result, timedelta(days=1))
    assert not zombie.succeed(old, old_result, timedelta(days=1))
    late.remove_object()
    assert exports.objects() == [exports.job(created)["object_key"]] == [new.object_key]


def test_two_workers_deliver_a_hundred_jobs_once_each(exports: Exports) -> None:
    insert_many(exports.owner, 24, 2, name_length=10)
    created = [exports.create(granularity="hourly") for _ in range(100)]
    with exports.worker(EXPORT_WORKER_CONCURRENCY="3"), exports.worker(EXPORT_WORKER_CONCURRENCY="3"):
        rows = [exports.wait(job, "succeeded", seconds=60) for job in created]
    assert {row["fencing_token"] for row in rows} == {1}
    assert len({row["checksum"] for row in rows}) == 1
    assert exports.objects() == sorted(row["object_key"] for row in rows)


def test_while_the_object_store_is_away_jobs_wait_without_using_attempts(
    exports: Exports, fleet: Fleet, proxy: TcpProxy
) -> None:
    proxy.mode = "refuse"
    worker = fleet.start("export_worker")
    created = exports.create()
    wait_until(lambda: "cannot take jobs" in worker.log.read_text(), "the worker noticing")
    assert worker.get("/healthz").status == 200
    assert worker.get("/readyz").status == 503
    assert (exports.job(created)["status"], exports.job(created)["attempt"]) == ("pending", 0)
    proxy.mode = "pass"
    assert exports.wait(created, "succeeded")["attempt"] == 1
    worker.wait_ready()


def test_a_connection_cut_in_mid_upload_costs_at_most_an_attempt(
    exports: Exports, fleet: Fleet, proxy: TcpProxy
) -> None:
    _, created = begun_upload(exports, fleet, proxy)
    proxy.delay_seconds = 0
    proxy.reset_connections()
    assert_whole(exports, exports.wait(created, "succeeded"))


def test_a_slow_object_store_keeps_its_worker_s_claim(
    exports: Exports, fleet: Fleet, proxy: TcpProxy
) -> None:
    proxy.delay_seconds = 0.6  # nine replies of it are two leases and more
    insert_many(exports.owner, HOURS, MODELS, name_length=200)
    fleet.start("export_worker")
    fleet.start("export_worker")
    row = exports.wait(exports.create(**HOURLY), "succeeded", seconds=40)
    assert (row["attempt"], row["fencing_token"]) == (1, 1)
    proxy.delay_seconds = 0
    assert_whole(exports, row)


@pytest.mark.alone
def test_a_silent_object_store_is_given_up_within_seconds(exports: Exports, proxy: TcpProxy) -> None:
    settings = load(ObjectStoreSettings, exports.s3 | {"S3_ENDPOINT": f"127.0.0.1:{proxy.port}"})
    store = ObjectStore(settings, read_timeout_seconds=0.3)
    store.check()
    proxy.mode = "blackhole"
    began = time.monotonic()
    with pytest.raises(ObjectStoreUnavailable):
        store.check()
    assert time.monotonic() - began < 5


@any_way
def test_an_attempt_ends_within_seconds_when_the_object_store_falls_silent(
    exports: Exports, proxy: TcpProxy, zone: str
) -> None:
    insert_many(exports.owner, HOURS, MODELS, name_length=200)
    created = exports.create(**HOURLY, time_zone=zone)
    database = Database(exports.database.export_worker_url, application_name="test")
    jobs = Jobs(database, worker="w", lease=timedelta(seconds=30), max_attempts=3)
    job = jobs.claim()
    assert job is not None
    settings = load(ObjectStoreSettings, exports.s3 | {"S3_ENDPOINT": f"127.0.0.1:{proxy.port}"})
    delivery = Delivery(job, database, ObjectStore(settings, read_timeout_seconds=0.5))
    proxy.delay_seconds = 0.3
    silence = threading.Timer(1.5, lambda: setattr(proxy, "mode", "blackhole"))
    silence.start()
    began = time.monotonic()
    with pytest.raises(ObjectStoreUnavailable):
        delivery.run()
    assert time.monotonic() - began < 15
    assert not [thread.name for thread in threading.enumerate() if job.job_id in thread.name]
    assert jobs.fail_attempt(job, "The store is silent.", timedelta()) == "pending"
    assert exports.job(created)["row_count"] is None
    database.close()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"S3_SECRET_KEY": "wrong-secret"}, "SignatureDoesNotMatch"),
        ({"S3_ACCESS_KEY": "nobody"}, "InvalidAccessKeyId"),
    ],
)
def test_credentials_that_are_refused_fail_a_job_with_a_sentence_after_its_attempts(
    exports: Exports, change: dict[str, str], code: str
) -> None:
    created = exports.create()
    with exports.worker(EXPORT_MAX_ATTEMPTS="1", **change) as worker:
        row = exports.wait(created, "failed")
        assert "s3" in worker._ready()
    assert row["error"] == f"The object store refused the file ({code})."
    assert row["attempt"] == 1
    assert exports.objects() == []


def test_a_missing_bucket_is_created_where_that_is_allowed(exports: Exports, s3: dict[str, str]) -> None:
    fresh = s3 | {"S3_BUCKET": f"{s3['S3_BUCKET']}-fresh"}
    store = ObjectStore(load(ObjectStoreSettings, fresh))
    with pytest.raises(ObjectStoreRefused, match=r"NoSuchBucket.*does not exist"):
        store.check()
    with exports.worker(S3_BUCKET=fresh["S3_BUCKET"]):
        row = exports.wait(exports.create(), "succeeded")
    assert store.stat(row["object_key"]) is not None


def test_a_bucket_that_takes_no_file_fails_the_job_with_a_sentence(exports: Exports) -> None:
    bucket = exports.s3["S3_BUCKET"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:PutObject",
                "Resource": f"arn:aws:s3:::{bucket}/*",
            }
        ],
    }
    exports.store._client.set_bucket_policy(bucket, json.dumps(policy))
    with exports.worker(EXPORT_MAX_ATTEMPTS="1") as worker:
        row = exports.wait(exports.create(), "failed")
        assert worker._metrics.failures.labels(reason="object_store_refused")._value.get() == 1
    assert row["error"] == "The object store refused the file (AccessDenied)."
    assert exports.objects() == []


@any_way
def test_a_database_connection_cut_mid_copy_costs_an_attempt_and_leaves_no_object(
    exports: Exports, zone: str
) -> None:
    insert_many(exports.owner, HOURS, MODELS, name_length=200)
    with TcpProxy.before(exports.database.export_worker_url) as cutting:
        cutting.cut_replies_after(6_000_000)
        with exports.worker(DATABASE_URL=cutting.url(exports.database.export_worker_url)):
            created = exports.create(**HOURLY, time_zone=zone)
            wait_until(lambda: exports.job(created)["error"] is not None, "the failed attempt")
            failed = exports.job(created)
            assert (failed["status"], failed["attempt"]) == ("pending", 1)
            assert failed["error"] == "The database did not answer, or not in time."
            assert (exports.objects(), exports.unfinished_uploads()) == ([], 0)
            row = exports.wait(created, "succeeded")
    assert (row["attempt"], row["error"]) == (2, None)
    assert_whole(exports, row)


@pytest.mark.parametrize("hours", [1, HOURS], ids=["one part", "many parts"])
def test_bytes_that_change_on_the_way_are_refused_and_sent_again(
    exports: Exports, proxy: TcpProxy, hours: int
) -> None:
    insert_many(exports.owner, hours, MODELS, name_length=200)
    in_lines = f":00Z,{ORG}".encode()
    proxy.in_requests = (in_lines, in_lines[:-1] + b"?")
    with exports.worker(S3_ENDPOINT=f"127.0.0.1:{proxy.port}"):
        created = exports.create(**HOURLY)
        wait_until(lambda: exports.job(created)["error"] is not None, "the refusal")
        assert exports.job(created)["error"] == "The object store refused the file (BadDigest)."
        proxy.in_requests = None
        row = exports.wait(created, "succeeded")
    assert len(exports.lines(row)) == hours * MODELS
    assert exports.objects() == [row["object_key"]]


def claims_lost(exports: Exports) -> int:
    [row] = exports.rows(
        "SELECT coalesce(sum(greatest(fencing_token - 1, 0)), 0) AS lost FROM analytics.export_jobs"
    )
    return int(row["lost"])


def test_backends_killed_again_and_again_lose_no_job_and_leave_one_object_each(exports: Exports) -> None:
    insert_many(exports.owner, 24, 20, name_length=50)
    with exports.worker(EXPORT_MAX_ATTEMPTS="100", EXPORT_LEASE="1s"):
        created: list[Row] = []
        deadline = time.monotonic() + 30
        while claims_lost(exports) < 3:
            assert time.monotonic() < deadline, "no kill hits an attempt"
            created += [exports.create(granularity="hourly") for _ in range(2)]
            time.sleep(random.uniform(0.01, 0.1))
            exports.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'export_worker %%'"
            )
        rows = [exports.wait(job, "succeeded", seconds=60) for job in created]
        wait_until(lambda: len(exports.objects()) == len(created), "one object for each")
    assert exports.objects() == sorted(row["object_key"] for row in rows)
    assert {len(exports.lines(row)) for row in rows} == {480}


def test_a_fault_of_ours_fails_the_job_with_a_sentence_and_not_the_worker(exports: Exports) -> None:
    exports.rows("REVOKE SELECT ON analytics.daily_rollups FROM analytics_export_worker")
    insert_many(exports.owner, 1, 1)
    with exports.worker(EXPORT_MAX_ATTEMPTS="1") as worker:
        row = exports.wait(exports.create(), "failed")
        assert row["error"] == "The export failed because of a fault in the service."
        assert worker._metrics.failures.labels(reason="unexpected")._value.get() == 1
        exports.wait(exports.create(granularity="hourly"), "succeeded")
