"""A read on a second connection: what it sees, and that whoever asked for it does it where it cannot."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from gateway import database as database_module
from gateway.aside import Aside
from gateway.database import POOL_SIZE, GatewayDatabase, Open
from shared.errors import DatabaseUnavailable
from shared.kept import KEPT, fetch_kept
from shared.metrics import GatewayMetrics
from shared.postgres import Cursor
from tests.support import citus_cluster

COUNT = (
    "SELECT count(*), current_setting('work_mem') FROM analytics.model_freshness WHERE model_id = %(model)s"
)
ADD = """INSERT INTO analytics.model_freshness (org_id, model_id, last_event_at, last_rollup_at)
         VALUES (gen_random_uuid(), 'm', now(), now())"""
OF_M = {"model": "m"}
SLOW = "SELECT pg_sleep(5)"


@pytest.mark.skipif(
    citus_cluster.is_wanted(), reason="its nodes have no common state, and nobody asks for one"
)
def test_it_sees_the_state_that_it_is_told_with_the_same_settings(
    environ: dict[str, str], owner: connection
) -> None:
    database = GatewayDatabase(environ["GATEWAY_DATABASE_URL"], GatewayMetrics(CollectorRegistry())).of_all()
    with ExitStack() as opened, owner.cursor() as cur:
        cur.execute(ADD)
        reading, _ = database.begin(opened, KEPT, fetch_kept)
        state = reading.state()
        cur.execute(ADD)
        asides = [database.aside(state, COUNT, OF_M, first=KEPT) for _ in range(POOL_SIZE - 1)]
        for aside in asides:
            aside._thread.join()
        assert [aside.rows() for aside in asides] == [[(1, "16MB")]] * (POOL_SIZE - 1)
        assert reading.rows(COUNT, OF_M) == [(1, "16MB")]
        broken = database.aside(state, "SELECT 1 / 0", {}), database.aside("00000003-00000001-1", COUNT, OF_M)
        for aside in broken:
            aside._thread.join()
            assert aside.rows() is None
    assert database.rows(COUNT, OF_M)[0]["count"] == 2


def test_where_no_connection_is_free_at_once_it_is_left_to_whoever_asked(environ: dict[str, str]) -> None:
    database = GatewayDatabase(environ["GATEWAY_DATABASE_URL"], GatewayMetrics(CollectorRegistry())).of_all()
    with ExitStack() as opened:
        readings = [database.begin(opened, KEPT, fetch_kept)[0] for _ in range(POOL_SIZE)]
        aside = database.aside(readings[0].state(), COUNT, OF_M)
        aside._thread.join()
        assert aside.rows() is None


def test_a_read_that_fails_after_its_begin_counts_as_a_failed_use_of_the_server_once(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "STATEMENT_SECONDS", 0.5)
    metrics = GatewayMetrics(registry := CollectorRegistry())
    database = GatewayDatabase(environ["GATEWAY_DATABASE_URL"], metrics).of_all()

    def failures_of(use: Callable[[Open], object]) -> float:
        failed = "analytics_dependency_errors_total", {"dependency": "postgresql"}
        before = registry.get_sample_value(*failed) or 0
        with suppress(DatabaseUnavailable), ExitStack() as opened:
            use(database.begin(opened, KEPT, fetch_kept)[0])
        return (registry.get_sample_value(*failed) or 0) - before

    def fail_elsewhere(_: Open) -> None:
        database.rows(SLOW, {})

    assert failures_of(lambda reading: reading.rows(SLOW, {})) == 1
    assert failures_of(fail_elsewhere) == 1
    assert failures_of(lambda reading: reading.rows("SELECT 1", {})) == 0
    if not citus_cluster.is_wanted():  # its nodes have no common state
        assert failures_of(lambda reading: database.aside(reading.state(), SLOW, {})._thread.join()) == 1


def test_what_has_not_begun_when_it_is_asked_for_is_never_read() -> None:
    may_begin = threading.Event()

    @contextmanager
    def begin() -> Iterator[Cursor]:
        may_begin.wait()
        yield None  # type: ignore[misc]  # is not used

    def read(_: Cursor) -> None:
        raise AssertionError("read all the same")

    aside = Aside(begin, read)
    assert aside.rows() is None
    may_begin.set()
    aside._thread.join()
