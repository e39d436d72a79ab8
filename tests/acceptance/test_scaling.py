"""Processes come and go by hand while events flow; nothing is lost and nothing counts twice."""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import psycopg2
import psycopg2.errors
import pytest

from deploy.local.api import Api, wait_until
from deploy.local.observer import Observer
from deploy.local.traffic import Event, Expected, Publisher, Router, encode, org
from tests.support.deployment import build, connections, objects
from tests.support.fleet import Fleet, Process
from tests.support.logins import make_logins
from tests.support.places import TestDatabase

MakePublisher = Callable[[], Publisher]


@contextmanager
def flow(publisher: MakePublisher, events: list[Event]) -> Iterator[None]:
    """Publish new events, singly and in batches, for as long as the block runs; collect them in events."""
    now = datetime.now(UTC)
    router = Router(seed=40, start=now - timedelta(days=2), end=now)
    over = threading.Event()

    def publish() -> None:
        with publisher() as out:
            while not over.wait(0.05):
                some = router.events(200)
                out.publish([*map(encode, some[:100]), encode(some[100:])])
                events.extend(some)

    producer = threading.Thread(target=publish)
    producer.start()
    try:
        yield
    finally:
        over.set()
        producer.join()


def batches_added(worker: Process) -> float:
    """Return how many batches a rollup worker has added, by its own metric."""
    metrics = worker.get("/metrics").data.decode()
    found = re.search(r"^analytics_rollup_batches_total (\S+)$", metrics, re.MULTILINE)
    return float(found[1]) if found else 0


def open_connections(observer: Observer) -> dict[str, int]:
    """Return how many connections each process's login has open now."""
    return dict(
        observer.rows(
            "SELECT usename::text, count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
            " AND pid <> pg_backend_pid() GROUP BY 1"
        )
    )


def test_ingestors_and_rollup_workers_join_and_leave_while_events_flow(
    fleet: Fleet, publisher: MakePublisher, observer: Observer
) -> None:
    events: list[Event] = []
    ingestors = fleet.start_ready("ingestor")
    workers = fleet.start_ready("rollup_worker")

    def all_ingestors_commit(count: int) -> None:
        """Each one that was ever started has committed batches: work reaches a newcomer by itself."""
        distinct = "SELECT count(DISTINCT ingestor) FROM analytics.ingestion_batches"
        wait_until(lambda: observer.rows(distinct) == [(count,)], seconds=20, what=f"batches of {count}")

    def all_workers_add() -> None:
        before = [batches_added(worker) for worker in workers]
        wait_until(
            lambda: all(now > then for now, then in zip(map(batches_added, workers), before, strict=True)),
            seconds=20,
            what=f"rollups by {len(workers)} workers",
        )

    with flow(publisher, events):
        all_ingestors_commit(1)
        ingestors += fleet.start_ready("ingestor")
        all_ingestors_commit(2)
        workers += fleet.start_ready("rollup_worker")
        all_workers_add()
        ingestors += fleet.start_ready("ingestor", "ingestor")
        all_ingestors_commit(4)
        found = open_connections(observer)
        for process in (ingestors[0], workers[0], ingestors[2]):
            assert process.stop() == 0, process.log_tail()
        assert ingestors[1].stop() == 0, ingestors[1].log_tail()
        del workers[0]
        all_workers_add()  # the one that is left goes on, and so does the last ingestor
    observer.wait_until_settled(stored=len(events))
    observer.assert_equal(Expected(events))
    assert observer.dead_letters() == []
    # Whoever left had acknowledged what it had committed: nothing was delivered again.
    assert observer.ingestion()["dedupe_conflicts"] == 0
    assert found["ingestor"] == 4 * connections("analytics-ingestor", {})
    # Each has one more while many batches wait, which these may never have done.
    most = connections("analytics-rollup-worker", {})
    assert 2 * (most - 1) <= found["rollup_worker"] <= 2 * most


def test_gateway_and_export_worker_keep_to_the_connections_they_are_counted_with(
    fleet: Fleet, observer: Observer
) -> None:
    # One gunicorn worker: with two, the kernel may give one of them everything.
    gateway, _ = fleet.start_ready("gateway", "export_worker", WEB_CONCURRENCY="1")
    api = Api(gateway.url)
    now = datetime.now(UTC)
    window = {
        "start": (now - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "end": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }

    def read(number: int) -> None:
        if number % 20 == 0:
            api.call("POST", f"/analytics/v1/orgs/{org(number)}/exports", json={
                "timeRange": window, "granularity": "hourly",
            })  # fmt: skip
        api.call("GET", f"/analytics/v1/orgs/{org(0)}/incidents/export", fields=window)
        api.call("GET", "/analytics/v1/status/readyz")
        api.usage(org(0), now - timedelta(days=1), now)

    with ThreadPoolExecutor(24) as pool:
        for done in pool.map(read, range(400)):
            assert done is None
    sizes = {"WEB_CONCURRENCY": "1", "EXPORT_WORKER_CONCURRENCY": "2"}
    # Connections stay open, so the number now is the most there were.
    found = open_connections(observer)
    counted = {name: connections(f"analytics-{name.replace('_', '-')}", sizes) for name in found}
    assert set(found) == {"gateway", "export_worker"}
    assert all(counted[name] / 2 < found[name] <= counted[name] for name in found), (found, counted)


def test_the_autoscalers_login_counts_the_export_jobs_that_need_a_worker(database: TestDatabase) -> None:
    scaled = {found["metadata"]["name"]: found for found in objects(build("production"), "ScaledObject")}
    query = scaled["analytics-export-worker"]["spec"]["triggers"][0]["metadata"]["query"]
    jobs = (
        "INSERT INTO analytics.export_jobs (org_id, granularity, window_start, window_end, requested_by,"
        " status, not_before, worker, attempt, fencing_token, started_at, lease_until, completed_at, error)"
        " SELECT gen_random_uuid(), 'daily', '2026-01-01Z', '2026-01-02Z', 'x', job.* FROM (VALUES"
        " ('pending', now(), NULL, 0, 0, NULL, NULL, NULL, NULL),"
        " ('pending', now() + interval '1 h', NULL, 1, 1, now(), NULL, NULL, NULL),"  # a retry not due yet
        " ('running', now(), 'a', 1, 1, now(), now() + interval '30 s', NULL, NULL),"
        " ('running', now(), 'dead', 1, 1, now(), now() - interval '1 s', NULL, NULL),"
        " ('failed', now(), 'a', 3, 3, now(), NULL, now(), 'it failed')) AS job"
    )
    scaler = make_logins(database)["scaler"]
    with closing(psycopg2.connect(scaler)) as connection, connection.cursor() as cur:
        cur.execute(query)
        assert cur.fetchone() == (0,)
        connection.commit()
        with closing(psycopg2.connect(database.owner_url)) as owner, owner, owner.cursor() as insert:
            insert.execute(jobs)
        cur.execute(query)
        assert cur.fetchone() == (3,)
        # Those that the release before must not see are due by another column.
        with closing(psycopg2.connect(database.owner_url)) as owner, owner, owner.cursor() as insert:
            insert.execute(
                jobs.replace("requested_by,", "requested_by, time_zone,").replace(
                    "'x',", "'x', 'Asia/Tokyo',"
                )
            )
        connection.commit()
        cur.execute(query)
        assert cur.fetchone() == (6,)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cur.execute("SELECT org_id FROM analytics.export_jobs")


def test_the_documented_logins_can_be_made_twice_and_watchers_can_only_read_what_they_show(
    database: TestDatabase,
) -> None:
    make_logins(database)
    logins = make_logins(database)
    for name, role in (("ingestor", "analytics_ingestor"), ("gateway", "analytics_gateway")):
        with closing(psycopg2.connect(logins[name])) as connection, connection.cursor() as cur:
            cur.execute("SELECT pg_has_role(%s, 'member')", (role,))
            assert cur.fetchone() == (True,)
    with closing(psycopg2.connect(logins["grafana"])) as connection, connection.cursor() as cur:
        cur.execute("SELECT count(*) FROM analytics.hourly_rollups, analytics.hourly_error_codes")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cur.execute("DELETE FROM analytics.hourly_rollups")
