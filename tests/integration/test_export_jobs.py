"""Export jobs in the database: what rows may exist, who may write what, and claims that hold."""

import threading
import time
from datetime import timedelta
from typing import Any

import psycopg2
import psycopg2.extras
import pytest

from export_worker.jobs import Job, Jobs
from shared.errors import DatabaseUnavailable
from shared.postgres import Database
from tests.support.exports import ORG, OTHER_ORG, SQL, START, Exports, Row, asked

LEASE = timedelta(seconds=30)
RESULT = {
    "row_count": 1, "checksum": "0" * 64, "size_bytes": 2, "data_as_of": START, "complete_since": None,
    "object_key": "key",
}  # fmt: skip
any_cut = pytest.mark.parametrize("cut", [{}, {"group_by": "client"}, {"time_zone": "Asia/Kolkata"}])
"""The rules of claims hold for jobs that the release before knows, and for those that are hidden from it."""


def jobs_of(exports: Exports, lease: timedelta = LEASE, max_attempts: int = 3) -> Jobs:
    database = Database(exports.database.export_worker_url, application_name="jobs under test")
    return Jobs(database, worker="host:1", lease=lease, max_attempts=max_attempts)


def end_lease(exports: Exports) -> None:
    """Let time pass: whatever is claimed has been silent for longer than its lease."""
    exports.rows(
        "UPDATE analytics.export_jobs SET lease_until = now() - interval '1 second' WHERE status = 'running'"
    )


def claimed(jobs: Jobs) -> Job:
    job = jobs.claim()
    assert job is not None
    return job


def test_the_same_key_and_request_give_the_same_job_and_another_request_is_told_apart(
    exports: Exports,
) -> None:
    first = exports.create(idempotency_key="k", models=["a", "b"])
    assert exports.ask("create_job", **asked(idempotency_key="k", models=["a", "b"])) is None
    found = exports.ask("find_job_by_key", **asked(idempotency_key="k", models=["a", "b"]))
    assert found is not None
    assert found.pop("same_request") is True
    assert found == first
    for change in (
        {"models": None},
        {"models": ["b", "a"]},
        {"compress": True},
        {"granularity": "monthly"},
        {"window_end": START + timedelta(days=8)},
        {"group_by": "client"},
        {"time_zone": "Asia/Kolkata"},
    ):
        other = exports.ask(
            "find_job_by_key", **asked(**{"idempotency_key": "k", "models": ["a", "b"]} | change)
        )
        assert other is not None
        assert other["same_request"] is False, change
    assert exports.create(idempotency_key="k", org_id=OTHER_ORG)["job_id"] != first["job_id"]
    assert exports.create()["job_id"] != exports.create()["job_id"]


def test_a_job_is_found_by_its_own_organisation_only(exports: Exports) -> None:
    created = exports.create()
    assert exports.ask("find_job", org_id=ORG, job_id=created["job_id"]) == created
    assert exports.ask("find_job", org_id=OTHER_ORG, job_id=created["job_id"]) is None


def test_the_list_is_newest_first_and_pages_meet_without_gap_or_repeat(exports: Exports) -> None:
    made = [exports.create()["job_id"] for _ in range(7)]
    exports.create(org_id=OTHER_ORG)
    exports.rows(
        "UPDATE analytics.export_jobs SET created_at = %s WHERE job_id = ANY(%s::uuid[])", START, made[2:5]
    )

    def page(status: str | None = None, after: Row | None = None) -> list[Row]:
        with exports.gateway.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cur:
            cursor = (
                {"before_created_at": after["created_at"], "before_job_id": after["job_id"]}
                if after
                else {"before_created_at": None, "before_job_id": None}
            )
            cur.execute(SQL["list_jobs"], {"org_id": ORG, "status": status, "limit": 2, **cursor})
            return [dict(row) for row in cur.fetchall()]

    seen: list[Row] = []
    while rows := page(after=seen[-1] if seen else None):
        seen += rows
    assert {row["job_id"] for row in seen} == set(made)
    assert [row["job_id"] for row in seen[:4]] == [made[6], made[5], made[1], made[0]]
    assert [(row["created_at"], row["job_id"]) for row in seen] == sorted(
        ((row["created_at"], row["job_id"]) for row in seen), reverse=True
    )
    jobs_of(exports).claim()
    assert len(page("running")) == 1
    assert page("failed") == []


def test_the_list_and_the_queue_are_read_by_their_indexes(exports: Exports) -> None:
    exports.rows(
        "INSERT INTO analytics.export_jobs (org_id, granularity, window_start, window_end, requested_by,"
        " status, completed_at, error, created_at) SELECT %s, 'daily', %s, %s, 'x', 'failed', now(), 'why',"
        " now() - n * interval '1 minute' FROM generate_series(1, 5000) AS n",
        ORG, START, START + timedelta(days=1),
    )  # fmt: skip
    exports.create()
    exports.rows("ANALYZE analytics.export_jobs")
    page = {"org_id": ORG, "status": None, "limit": 50, "before_created_at": START, "before_job_id": ORG}
    claim = {"max_attempts": 3, "lease": LEASE, "worker": "w"}
    for statement, parameters, index in (
        ("list_jobs", page, "export_jobs_list"),
        ("claim_job", claim, "export_jobs_queue"),
        ("seconds_until_due", {}, "export_jobs_queue"),
        ("jobs_with_leftovers", {"max_jobs": 1000}, "export_jobs_leftovers"),
    ):
        with exports.owner.cursor() as cur:
            cur.execute("EXPLAIN " + SQL[statement], parameters)
            plan = "\n".join(row[0] for row in cur.fetchall())
        assert index in plan, plan
        assert "Seq Scan on export_jobs" not in plan


@pytest.mark.parametrize(
    "change",
    [
        {"granularity": "weekly"},
        {"window_end": START},
        {"window_end": START + timedelta(days=33)},
        {"window_start": START + timedelta(hours=1)},
        {"granularity": "hourly", "window_end": START + timedelta(minutes=90)},
        {"time_zone": "Asia/Kolkata", "window_end": START + timedelta(minutes=10)},
        {"time_zone": "Asia/Kolkata", "window_end": START + timedelta(days=35)},
        {"models": []},
        {"models": ["a", None]},
        {"models": ["a"] * 101},
        {"requested_by": None},
    ],
)
def test_impossible_requests_cannot_be_stored(exports: Exports, change: Row) -> None:
    with pytest.raises(psycopg2.IntegrityError):
        exports.create(**change)


@pytest.mark.parametrize(
    "change",
    [
        "status = 'running'",
        "status = 'succeeded', completed_at = now()",
        "status = 'failed', completed_at = now()",
        "status = 'failed', error = 'why'",
        "status = 'expired'",
        "completed_at = now()",
        "object_key = 'k'",
        "checksum = 'abc'",
        "status = 'done'",
    ],
)
def test_impossible_states_cannot_be_stored(exports: Exports, change: str) -> None:
    exports.create()
    with pytest.raises(psycopg2.IntegrityError):
        exports.rows(f"UPDATE analytics.export_jobs SET {change}")


def test_exactly_31_days_are_allowed(exports: Exports) -> None:
    assert exports.create(window_end=START + timedelta(days=31))["status"] == "pending"


def test_each_role_may_do_no_more_than_it_needs(exports: Exports) -> None:
    def refused(url: str, statement: str) -> bool:
        opened = psycopg2.connect(url)
        try:
            with opened.cursor() as cur:
                cur.execute(statement)
        except psycopg2.errors.InsufficientPrivilege:
            return True
        finally:
            opened.close()
        return False

    urls = exports.database
    done = (
        "INSERT INTO analytics.export_jobs (org_id, granularity, window_start, window_end, requested_by, {}) "
    )
    for column in ("status", "scheduled", "object_key", "checksum", "due_at", "not_before"):
        assert refused(
            urls.gateway_url, done.format(column) + "SELECT NULL, NULL, NULL, NULL, NULL, NULL WHERE false"
        )
    assert refused(urls.gateway_url, "UPDATE analytics.export_jobs SET error = 'x'")
    assert refused(urls.gateway_url, "DELETE FROM analytics.export_jobs")
    for table in ("event_keys", "audit_log", "model_freshness"):
        assert refused(urls.export_worker_url, f"SELECT FROM analytics.{table}")
    for table in ("usage_events", "ingestion_batches", "rollups", "dropped_days"):
        assert refused(urls.export_worker_url, f"DELETE FROM analytics.{table}")
    for url in (urls.ingestor_url, urls.rollup_worker_url):
        assert refused(url, "SELECT FROM analytics.export_jobs")


def test_two_claimers_never_get_the_same_job(exports: Exports) -> None:
    made = {exports.create()["job_id"] for _ in range(60)}
    taken: list[Job] = []

    def take() -> None:
        jobs = jobs_of(exports)
        while job := jobs.claim():
            taken.append(job)
        jobs.database.close()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job.job_id for job in taken) == sorted(str(job_id) for job_id in made)
    assert {job.attempt for job in taken} == {1}


def test_the_oldest_job_is_taken_first(exports: Exports) -> None:
    made = [str(exports.create()["job_id"]) for _ in range(5)]
    jobs = jobs_of(exports)
    assert [claimed(jobs).job_id for _ in made] == made
    assert jobs.claim() is None


@any_cut
def test_a_claim_past_its_lease_is_taken_over_and_then_changes_nothing(exports: Exports, cut: Row) -> None:
    created = exports.create(**cut)
    zombie = jobs_of(exports)
    old = claimed(zombie)
    other = jobs_of(exports)
    assert other.claim() is None
    end_lease(exports)
    new = claimed(other)
    assert (new.attempt, new.fencing_token) == (2, 2)
    assert new.object_key != old.object_key
    before = exports.job(created)
    late: list[Any] = [
        zombie.extend_lease(old, 5),
        zombie.succeed(old, RESULT, LEASE),
        zombie.fail_attempt(old, "late", LEASE),
        zombie.give_back(old),
    ]
    assert not any(late)
    assert exports.job(created) == before
    assert other.succeed(new, RESULT, LEASE)
    done = exports.job(created)
    assert not any([zombie.succeed(old, RESULT, LEASE), zombie.fail_attempt(old, "late", LEASE)])
    assert exports.job(created) == done


def test_a_success_whose_commit_was_not_heard_of_can_be_said_again(exports: Exports) -> None:
    created = exports.create()
    jobs = jobs_of(exports)
    job = claimed(jobs)
    assert jobs.succeed(job, RESULT, LEASE)
    first = exports.job(created)
    assert jobs.succeed(job, RESULT, LEASE)
    assert exports.job(created) == first


@any_cut
def test_a_lease_that_is_extended_is_not_taken_over(exports: Exports, cut: Row) -> None:
    created = exports.create(**cut)
    jobs = jobs_of(exports)
    job = claimed(jobs)
    for rows in range(6):
        end_lease(exports)
        assert jobs.extend_lease(job, rows)
        assert jobs_of(exports).claim() is None
    assert exports.job(created)["rows_done"] == 5


@any_cut
def test_attempts_are_bounded_and_the_last_error_is_kept(exports: Exports, cut: Row) -> None:
    created = exports.create(**cut)
    jobs = jobs_of(exports, max_attempts=2)
    assert jobs.fail_attempt(claimed(jobs), "The first reason.", timedelta()) == "pending"
    assert exports.job(created)["error"] == "The first reason."
    assert jobs.fail_attempt(claimed(jobs), "The second reason.", timedelta()) == "failed"
    assert jobs.claim() is None
    row = exports.job(created)
    assert (row["status"], row["error"], row["attempt"]) == ("failed", "The second reason.", 2)


@any_cut
def test_a_retry_waits_for_its_time(exports: Exports, cut: Row) -> None:
    exports.create(**cut)
    jobs = jobs_of(exports)
    jobs.fail_attempt(claimed(jobs), "why", timedelta(minutes=5))
    assert jobs.claim() is None
    due = jobs.seconds_until_due()
    assert due is not None
    assert 0 < due <= 300
    exports.rows("UPDATE analytics.export_jobs SET not_before = now()")  # five minutes later
    assert claimed(jobs).attempt == 2


@any_cut
def test_a_job_whose_workers_all_vanished_fails_with_a_sentence(exports: Exports, cut: Row) -> None:
    created = exports.create(**cut)
    jobs = jobs_of(exports, lease=timedelta(milliseconds=50), max_attempts=2)
    for _ in range(2):
        claimed(jobs)
        time.sleep(0.1)
    assert jobs.claim() is None
    assert jobs.fail_abandoned() == 1
    row = exports.job(created)
    assert row["status"] == "failed"
    assert row["error"] == "The export was begun 2 times, and each time its worker vanished."


@any_cut
def test_a_job_that_is_given_back_keeps_its_attempts_and_gets_a_new_object(
    exports: Exports, cut: Row
) -> None:
    created = exports.create(**cut)
    jobs = jobs_of(exports)
    first = claimed(jobs)
    assert jobs.give_back(first)
    assert exports.job(created)["status"] == "pending"
    second = claimed(jobs)
    assert (second.attempt, second.fencing_token) == (1, 2)
    assert second.object_key != first.object_key


def test_an_insert_is_heard_of_at_once(exports: Exports) -> None:
    jobs = jobs_of(exports)
    assert jobs.wait_notified(10) is True, "nobody listened before, so one may have been missed"
    assert jobs.wait_notified(0.1) is False
    timer = threading.Timer(0.3, exports.create)
    timer.start()
    began = time.monotonic()
    assert jobs.wait_notified(60) is True
    assert time.monotonic() - began < 30
    timer.join()
    assert jobs.wait_notified(0.1) is False


def test_an_insert_while_the_listener_s_connection_was_lost_is_suspected(exports: Exports) -> None:
    jobs = jobs_of(exports)
    jobs.wait_notified(10)
    exports.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'jobs under test'"
    )
    with pytest.raises(DatabaseUnavailable):
        jobs.wait_notified(10)
    began = time.monotonic()
    assert jobs.wait_notified(60) is True
    assert time.monotonic() - began < 30
    assert jobs.wait_notified(0.1) is False
