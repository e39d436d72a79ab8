"""The gateway with its servers gone, silent, busy or restarted: late or refused, never wrong."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from falcon import testing
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import Router, org
from gateway import database as gateway_database
from shared.metrics import GatewayMetrics
from shared.statements import load_statements
from tests.support.fleet import free_port
from tests.support.gateway_app import ADMIN, PREFIX, Gateway, assert_problem
from tests.support.places import TestDatabase
from tests.support.seed import connect, insert_batch
from tests.support.tcp_proxy import TcpProxy

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
LAG_SECONDS = 400
USAGE = f"{PREFIX}/orgs/{org(0)}/usage"
WINDOW = "start=2026-11-01T00:00:00Z&end=2026-11-02T00:00:00Z&granularity=hour"


@pytest.fixture
def owner(database: TestDatabase) -> Iterator[connection]:
    """The owner of a database in which organisation 0 lags."""
    opened = connect(database.owner_url)
    event = Router(seed=1, start=NOW - timedelta(hours=1), end=NOW, orgs=1).event()
    insert_batch(opened, [event], NOW - timedelta(seconds=LAG_SECONDS))
    yield opened
    opened.close()


@pytest.fixture
def to_database(environ: dict[str, str]) -> Iterator[TcpProxy]:
    """Stands before PostgreSQL in the gateway's settings."""
    with TcpProxy.before(environ["GATEWAY_DATABASE_URL"]) as proxy:
        environ["GATEWAY_DATABASE_URL"] = proxy.url(environ["GATEWAY_DATABASE_URL"])
        yield proxy


def ask(gateway: Gateway, actor: dict[str, str] | None = None) -> testing.Result:
    return gateway.call("GET", USAGE, actor or {**ADMIN, "X-Actor-Orgs": org(0)}, query=WINDOW)


def timed(gateway: Gateway) -> tuple[testing.Result, float]:
    began = time.monotonic()
    answer = ask(gateway)
    return answer, time.monotonic() - began


def at_once(gateway: Gateway, count: int) -> list[testing.Result]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(ask, gateway) for _ in range(count)]]


def lag(gateway: Gateway) -> Any:
    return gateway.get(f"/orgs/{org(0)}/freshness")["lagSeconds"]


@pytest.mark.alone
def test_redis_that_is_down_changes_no_answer(owner: connection, environ: dict[str, str]) -> None:
    gateway = Gateway(environ, clock=lambda: NOW, REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert lag(gateway) == LAG_SECONDS
    answer, seconds = timed(gateway)
    assert answer.status_code == 200
    assert seconds < 1


@pytest.mark.alone
@pytest.mark.parametrize("known_before", [True, False])
def test_redis_that_is_silent_costs_one_short_wait(
    owner: connection, environ: dict[str, str], known_before: bool
) -> None:
    with TcpProxy.before(environ["REDIS_URL"]) as proxy:
        gateway = Gateway(environ, clock=lambda: NOW, REDIS_URL=proxy.url(environ["REDIS_URL"]))
        if known_before:
            assert lag(gateway) == LAG_SECONDS
        proxy.mode = "blackhole"
        first, first_seconds = timed(gateway)
        second, second_seconds = timed(gateway)
        assert first.status_code == second.status_code == 200
        assert first_seconds < 1
        assert second_seconds < 0.2, "a silent Redis is asked at every request"
        assert lag(gateway) == LAG_SECONDS


DAMAGES: list[bytes | list[str]] = [
    b"",
    b"null",
    b"{",
    b"\xff\xfe",
    b'{"orgId":1}',
    b'{"orgId":"\xff"}',
    b"[" * 100_000,
    b'{"x":' + b"[" * 100_000,
    ["a list"],
]


def test_what_redis_holds_is_believed_only_if_it_is_this_organisation_s(
    owner: connection, environ: dict[str, str], redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as cache:
        gateway = Gateway(environ, clock=lambda: NOW)
        assert gateway.get(f"/orgs/{org(1)}/freshness", ADMIN)["status"] == "unknown"
        keys = cache.keys()
        assert isinstance(keys, list)
        [foreign_key] = keys
        foreign = cache.get(foreign_key)
        assert isinstance(foreign, bytes)
        key = foreign_key.replace(org(1).encode(), org(0).encode())
        assert key != foreign_key
        for damage in (foreign, *DAMAGES):
            cache.delete(key)
            if isinstance(damage, list):
                cache.rpush(key, *damage)
            else:
                cache.set(key, damage)
            assert lag(gateway) == LAG_SECONDS, damage[:20]
        assert ask(gateway).json["freshness"]["status"] == "stale"


@pytest.mark.alone
def test_postgresql_that_is_down_is_a_503_and_the_first_request_after_is_answered(
    environ: dict[str, str], to_database: TcpProxy
) -> None:
    gateway = Gateway(environ)
    assert ask(gateway).status_code == 200
    to_database.mode = "refuse"
    to_database.reset_connections()
    answer, seconds = timed(gateway)
    assert_problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert seconds < 4
    assert timed(gateway)[1] < 0.5, "each request waits for a server that is known to be away"
    assert "127.0.0.1" not in answer.text, "where the database is concerns no client"
    readiness = gateway.call("GET", f"{PREFIX}/status/readyz", {})
    assert readiness.status_code == 503
    assert list(readiness.json["faults"]) == ["postgresql"]
    assert gateway.call("GET", f"{PREFIX}/status/healthz", {}).status_code == 200
    to_database.mode = "pass"
    assert ask(gateway).status_code == 200
    assert gateway.call("GET", f"{PREFIX}/status/readyz", {}).status_code == 200


@pytest.mark.alone
def test_postgresql_that_is_silent_is_a_503_after_one_limit_not_two(
    environ: dict[str, str], to_database: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_database, "_LIMIT_SECONDS", 1.5)
    gateway = Gateway(environ)
    assert ask(gateway).status_code == 200
    to_database.mode = "blackhole"
    answer, seconds = timed(gateway)
    assert_problem(answer, 503)
    assert answer.headers["retry-after"]
    assert seconds < 3
    to_database.mode = "pass"
    to_database.reset_connections()
    assert ask(gateway).status_code == 200


def test_more_requests_than_connections_wait_a_bounded_time_for_one(
    owner: connection, database: TestDatabase, environ: dict[str, str]
) -> None:
    gateway = Gateway(environ)
    assert ask(gateway).status_code == 200
    holder = connect(database.owner_url)
    holder.autocommit = False
    holder.cursor().execute("LOCK TABLE analytics.hourly_rollups")
    release = threading.Timer(3, holder.rollback)
    release.start()
    answers = at_once(gateway, gateway_database.POOL_SIZE + 2)
    release.join()
    holder.close()
    assert sorted(answer.status_code for answer in answers) == [200] * gateway_database.POOL_SIZE + [503] * 2
    refused = [answer for answer in answers if answer.status_code == 503]
    for answer in refused:
        assert_problem(answer, 503)
        assert answer.headers["retry-after"]
    assert {answer.status_code for answer in at_once(gateway, gateway_database.POOL_SIZE)} == {200}


def test_after_a_restart_of_postgresql_no_request_meets_a_dead_connection(
    owner: connection, database: TestDatabase, environ: dict[str, str]
) -> None:
    gateway = Gateway(environ)
    held = connect(database.owner_url)
    held.autocommit = False
    for _ in range(2):
        held.cursor().execute("LOCK TABLE analytics.hourly_rollups")
        release = threading.Timer(0.5, held.rollback)
        release.start()
        answers = at_once(gateway, gateway_database.POOL_SIZE)
        release.join()
        assert [answer.status_code for answer in answers] == [200] * gateway_database.POOL_SIZE
        with owner.cursor() as cur:
            cur.execute(
                "SELECT count(pg_terminate_backend(pid, 2000)) FROM pg_stat_activity"
                " WHERE usename = 'gateway' AND datname = current_database()"
            )
            assert cur.fetchone() == (gateway_database.POOL_SIZE,)
    held.close()


def test_no_request_fails_over_a_short_restart_that_refuses_connections(
    environ: dict[str, str], to_database: TcpProxy
) -> None:
    gateway = Gateway(environ)
    for actor in (None, ADMIN):  # a read, and one with its audit row
        assert ask(gateway, actor).status_code == 200
        to_database.mode = "refuse"
        to_database.reset_connections()
        back = threading.Timer(0.4, setattr, (to_database, "mode", "pass"))
        back.start()
        assert ask(gateway, actor).status_code == 200
        back.join()


def test_a_row_is_written_once_over_a_connection_that_had_died(
    owner: connection, environ: dict[str, str]
) -> None:
    writer = gateway_database.GatewayDatabase(
        environ["GATEWAY_DATABASE_URL"], GatewayMetrics(CollectorRegistry())
    )
    names = ("actor_subject", "actor_roles", "actor_orgs", "method", "path", "request_id")
    row = {"org_id": org(0), "decision": "cross-org", **dict.fromkeys(names, "x")}
    statement = load_statements("audit.sql")["write"]
    with owner.cursor() as cur:
        for count in (1, 2, 3):
            writer.transaction(lambda cur: cur.execute(statement, row))
            cur.execute("SELECT count(*) FROM analytics.audit_log")
            assert cur.fetchone() == (count,)
            cur.execute(
                "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
                " WHERE usename = 'gateway' AND datname = current_database()"
            )
