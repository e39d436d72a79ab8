"""What a Citus cluster is asked, by its plans, and how a database comes there."""

import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local import machine
from deploy.local.stack import LocalStack, migrate
from deploy.local.traffic import org
from ingestor.store import BatchStore
from rollup_worker import spread
from rollup_worker.rollups import Rollups
from rollup_worker.verify import Window, verify
from shared.cut import Cut
from shared.cut_plan import Plan, Read, cuts_of_several
from shared.errors import DatabaseBusy, DatabaseUnavailable
from shared.kept import KEPT, fetch_moved, read_kept
from shared.metrics import RollupMetrics
from shared.migrate import _apply, distribute, migrations
from shared.postgres import Database
from shared.statements import in_type, load_statements
from tests.support import citus_cluster
from tests.support.citus_cluster import CitusStack
from tests.support.places import TestDatabase, new_name
from tests.support.seed import connect, insert_batch
from tests.support.shared_stack import TEMPLATE
from tests.support.stores import NOW, store_batch, traffic

DAY = timedelta(days=1)
CUTS = in_type(load_statements("cuts.sql"), "bigint")
ON_NODES = in_type(cuts_of_several()[0], "bigint")
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The run's servers if they are a cluster, else one of this file's own; skipped without the extension."""
    if citus_cluster.is_wanted():
        yield request.getfixturevalue("stack")
        return
    if not citus_cluster.is_installed():
        pytest.skip("Citus is not installed beside PostgreSQL's programs")
    home = machine.temporary_home("analytics-citus-")
    own = CitusStack(home, environ=dict.fromkeys(("RABBITMQ_URL", "REDIS_URL", "S3_ENDPOINT"), "none"))
    try:
        own.start()
        migrate(own.create_database(TEMPLATE))
        own.make_template(TEMPLATE)
        own.create_logins()
        yield own
    finally:
        own.stop()
        shutil.rmtree(home, ignore_errors=True)


def plan_of(owner: connection, statement: str, parameters: dict[str, Any]) -> str:
    with owner.cursor() as cur:
        cur.execute(f"EXPLAIN (VERBOSE) {statement}", parameters)
        return "\n".join(line for (line,) in cur.fetchall())


def cut_of(**given: Any) -> Cut:
    asked: dict[str, Any] = {"org_ids": (org(0),), "by_model": True, "granularity": "hour"}
    return Cut(start=TODAY - 3 * DAY, end=TODAY, **asked | given)


def test_a_batch_goes_to_each_shard_once(owner: connection, new_store: Callable[[], BatchStore]) -> None:
    events = [event | {"orgId": org(number % 8)} for number, event in enumerate(traffic(2_000))]
    assert store_batch(new_store(), events) == (2_000, 2_000, 0)
    rows = io.StringIO()
    with owner.cursor() as cur:
        cur.copy_expert("COPY (SELECT * FROM analytics.usage_events) TO STDOUT", rows)
        cur.execute("TRUNCATE analytics.usage_events")
        cur.execute("SET citus.log_remote_commands = on")
        owner.notices.clear()
        rows.seek(0)
        cur.copy_expert("COPY analytics.usage_events FROM STDIN", rows)
        cur.execute("SELECT")  # the notices of a COPY are read with what follows
    copies = re.findall(r"issuing COPY analytics\.(\w+)", "".join(owner.notices))
    assert len(copies) == len(set(copies)) > 1


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_a_read_of_one_organisation_is_one_task(owner: connection, zone: str) -> None:
    asked: tuple[dict[str, Any], ...] = (
        {},
        {"granularity": "day", "top": 2},
        {"granularity": "total", "dimension": "client", "by_value": True, "top": 2},
    )
    with owner.cursor() as cur:
        cur.execute("SELECT analytics.add_rollup_dimension('client', true, NULL)")
        kept = read_kept(cur)
    for members in asked:
        plan = Plan(cut_of(tz=ZoneInfo(zone), **members), kept, NOW)
        plan.waiting = "{}"
        for statement in ("usage", "reliability"):
            for read in plan.reads([(org(0), "m", "v")]):
                assert_one_task(plan_of(owner, CUTS[statement], read.parameters))
    plain = Plan(cut_of(tz=ZoneInfo("UTC")), kept, NOW).plain()
    for statement in ("plain_usage", "plain_reliability", "plain_histograms", "plain_codes"):
        assert_one_task(plan_of(owner, CUTS[statement], plain | {"percentile_at": None}))


def test_sums_of_several_organisations_are_made_on_the_nodes(owner: connection) -> None:
    with owner.cursor() as cur:
        cur.execute("SELECT analytics.add_rollup_dimension('client', true, NULL)")
        kept = read_kept(cur)
    several = {"org_ids": tuple(org(number) for number in range(50)), "tz": ZoneInfo("UTC"), "by_org": True}
    by_model = Plan(cut_of(**several), kept, NOW)
    by_client = Plan(cut_of(**several, dimension="client", by_value=True, top=2), kept, NOW)
    winners = [(org(0), "m", "v")]
    asked = {
        "usage": by_model.reads(None) + by_client.reads(winners),
        "reliability": by_model.reads(None) + by_client.reads(winners),
        "usage_of_top": [Read(Plan(cut_of(**several, top=2), kept, NOW).at_once())],
        "largest": by_client.largest(),
        "codes": [Read(by_model.codes(None))],
    }
    for name, reads in asked.items():
        for read in reads:
            plan = plan_of(owner, ON_NODES[name], read.parameters)
            queries = re.findall(r"Task Count: [2-9]\n.*\n.*\n +Query: (.*)", plan)
            assert queries, f"{name}: {plan}"
            assert all(" GROUP BY " in query for query in queries), f"{name}: {plan}"


def assert_one_task(plan: str) -> None:
    assert re.findall(r"Task Count: (\d+)", plan) == ["1"], plan
    assert "Distributed Subplan" not in plan, plan


def test_distribute_moves_what_is_there(stack: LocalStack) -> None:
    name = new_name("_")
    url = stack.create_database(name)
    try:
        with closing(Database(url, application_name="migrate", statement_timeout_seconds=300)) as database:
            for migration in migrations():
                with database.transaction(time_limit_seconds=300) as cur:
                    _apply(cur, migration)
            with closing(connect(url)) as owner:
                insert_batch(owner, traffic(500))
            assert not distribute(database, with_events=False)
            assert distribute(database, with_events=True)
            assert not distribute(database, with_events=True)
        urls = stack.process_urls(url)
        with closing(Database(urls["ROLLUP_WORKER_DATABASE_URL"], application_name="rollups")) as worker:
            rollups = Rollups(worker, RollupMetrics(CollectorRegistry()))
            while rollups.add_waiting():
                pass
            said: list[str] = []
            assert verify(worker, Window(TODAY - DAY, TODAY + DAY), said.append) == 0
            assert " 500 events" in " ".join(said).replace(",", "")
    finally:
        stack.drop_database(name)


def test_a_batch_waits_until_all_of_its_events_are_seen(
    owner: connection, worker: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator shows a batch's record a moment before the nodes show its events."""
    monkeypatch.setattr(spread, "_MAX_WAIT_SECONDS", 0.1)
    insert_batch(owner, traffic(10))
    rollups = Rollups(worker, RollupMetrics(CollectorRegistry()))
    with owner.cursor() as cur:
        cur.execute("UPDATE analytics.ingestion_batches SET received = 11, inserted = 11")
        with pytest.raises(DatabaseBusy, match="not all events"):
            rollups.add_waiting()
        cur.execute("UPDATE analytics.ingestion_batches SET received = 10, inserted = 10")
        assert rollups.add_waiting() == 1
        cur.execute("SELECT sum(invocations) FROM analytics.daily_rollups")
        assert cur.fetchall() == [(10,)]


def test_nothing_is_rebuilt_while_a_node_was_not_told_to_commit(
    stack: LocalStack, database: TestDatabase, worker: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spread, "_MAX_WAIT_SECONDS", 0.1)
    assert isinstance(stack, CitusStack)
    with closing(connect(stack.on_node(database.owner_url))) as node, node.cursor() as cur:
        cur.execute("BEGIN")
        cur.execute("SELECT pg_current_xact_id()")
        cur.execute("PREPARE TRANSACTION 'lost'")
        with pytest.raises(DatabaseBusy, match="lost"), worker.transaction() as waiting:
            spread.keep_rollups_out(waiting)
        cur.execute("ROLLBACK PREPARED 'lost'")
    with worker.transaction() as done:
        spread.keep_rollups_out(done)


def test_days_are_read_while_no_hour_is_being_added_to_them(
    database: TestDatabase, owner: connection, worker: Database
) -> None:
    with owner.cursor() as cur:
        cur.execute("SELECT analytics.add_rollup_dimension('client', true, NULL)")
    cut = cut_of(tz=ZoneInfo("UTC"), dimension="client", by_value=True)

    def read() -> int | None:
        with reader.transaction(repeatable_read=True, read_only=True, first=KEPT) as cur:
            return fetch_moved(cur, cut)[""].moves

    with closing(Database(database.export_worker_url, application_name="reader")) as reader:
        before = read()
        with worker.transaction() as adding:
            spread.begin_move(adding)
            with pytest.raises(DatabaseUnavailable, match="an hour"):
                read()
        with pytest.raises(DatabaseUnavailable, match="an hour"):
            read()
        with worker.transaction() as added:
            spread.end_move(added)
        assert (before, read()) == (0, 2)
