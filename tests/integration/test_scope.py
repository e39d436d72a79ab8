"""Row-level security: a statement of the gateway's that has lost its WHERE finds nothing foreign."""

import re
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from psycopg2 import errors
from psycopg2.extensions import connection

from deploy.local.traffic import org
from gateway.cuts import reading, statements
from gateway.database import GatewayDatabase
from gateway.incidents import export
from gateway.resources import dimensions, exports, freshness
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.rollups import Rollups
from shared.buckets import bucket_start, rfc3339
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.settings import KeptDimension
from shared.statements import load_statements
from tests.support import citus_cluster
from tests.support.cuts import Mix
from tests.support.gateway_app import ADMIN, PREFIX, Gateway
from tests.support.places import TestDatabase
from tests.support.seed import connect, insert_batch

TODAY = bucket_start(datetime.now(UTC), "day")
START = TODAY - timedelta(days=3)
OURS, THEIRS = org(0), org(1)
EVERYTHING = {
    "X-Actor-Subject": "us",
    "X-Actor-Roles": "analytics:usage:read,analytics:reliability:read,analytics:exports:read,"
    "analytics:exports:create,analytics:incidents:export",
    "X-Actor-Orgs": OURS,
}
WINDOW = f"start={rfc3339(START)}&end={rfc3339(TODAY)}"
STATEMENTS = (
    *(module._SQL for module in (reading, exports, dimensions, freshness, export)),
    *statements._NARROW.values(),
    *statements._WIDE.values(),
)
_CONDITION = re.compile(
    r"org_id (= %\(org_id\)s(::uuid)?|= ANY \(%\(org_ids\)s::uuid\[\]\)|IN %\(org_ids\)s)"
)
_ARGUMENT = re.compile(r"(model_freshness_at|freshness_at)\(%\(org_id\)s(::uuid)?")
ASKED = [
    f"usage?{WINDOW}",
    f"usage?{WINDOW}&granularity=hour",
    f"usage?{WINDOW}&groupBy=client&top=3&compare=previous",
    f"usage?{WINDOW}&groupBy=none&granularity=total",
    f"usage?{WINDOW}&groupBy=actor&top=3",
    f"usage?{WINDOW.replace('T00', 'T18').replace(':00:00Z', ':30:00Z')}&timeZone=Asia/Kolkata",
    f"reliability?{WINDOW}&percentile=p90",
    f"reliability?{WINDOW}&groupBy=client",
    f"reliability?start={rfc3339(TODAY - timedelta(hours=3))}&end={rfc3339(TODAY)}&granularity=minute",
    f"dimensions/client/values?{WINDOW}",
    f"incidents/export?{WINDOW}",
    "freshness",
    "exports",
]


@pytest.fixture
def gateway(owner: connection, worker: Database, environ: dict[str, str]) -> Gateway:
    """A gateway over events and jobs of two organisations, some of them not rolled up yet.

    Its login has no rights but those of the roles that it becomes, as a later release will have it.
    """
    keep_dimensions(worker, (KeptDimension("client"), KeptDimension("actor", keeps_hours=False)))
    events = Mix(1, start=START, end=TODAY).events(400)
    for number, event in enumerate(events):
        event["orgId"] = (OURS, THEIRS)[number % 2]
    insert_batch(owner, events[:300])
    assert Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting()
    insert_batch(owner, events[300:])
    with owner.cursor() as cur:
        for org_id in (OURS, THEIRS):
            cur.execute(
                "INSERT INTO analytics.export_jobs"
                " (org_id, granularity, window_start, window_end, requested_by)"
                " VALUES (%s, 'daily', %s, %s, 'x')",
                (org_id, START, TODAY),
            )
        cur.execute(
            "REVOKE ALL ON ALL TABLES IN SCHEMA analytics FROM analytics_gateway;"
            "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA analytics FROM analytics_gateway;"
            "GRANT SELECT ON analytics.schema_migrations TO analytics_gateway"
        )
    return Gateway(environ, clock=lambda: TODAY, FRESHNESS_CACHE_TTL="1ms")


def answers(gateway: Gateway, asked: list[str] = ASKED, *, may_fail: bool = False) -> dict[str, str]:
    """Return what is answered; may_fail: a refusal stands as its status."""
    found = {}
    for each in asked:
        path, _, query = each.partition("?")
        answer = gateway.call("GET", f"{PREFIX}/orgs/{OURS}/{path}", EVERYTHING, query=query)
        assert may_fail or answer.status_code == 200, (each, answer.text)
        found[each] = answer.text if answer.status_code == 200 else str(answer.status_code)
    return found


def lose_where(monkeypatch: pytest.MonkeyPatch) -> int:
    """Take each condition on the organisation out of the gateway's statements; return how many there were."""
    lost = 0
    for statements_of in STATEMENTS:
        for name, text in statements_of.items():
            without, conditions = _CONDITION.subn("true", text)
            without, arguments = _ARGUMENT.subn(r"\1(NULL", without)
            lost += conditions + arguments
            monkeypatch.setitem(statements_of, name, without)
    return lost


def test_without_any_where_the_answers_are_the_same(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = answers(gateway)
    assert lose_where(monkeypatch) > 15
    # Citus gives no answer to some, since what names no organisation is planned in another way.
    on_citus = citus_cluster.is_wanted()
    without = answers(gateway, may_fail=on_citus)
    refused = {each for each in ASKED if without[each] == "500"}
    assert len(refused) <= (1 if on_citus else 0)
    assert [each for each in ASKED if without[each] != right[each] and each not in refused] == []
    # And the conditions are really gone: seen by all organisations' role every answer differs.
    monkeypatch.setattr(GatewayDatabase, "of", lambda self, _: self.of_all())
    monkeypatch.setattr(export, "scope_of", lambda _: (load_statements("scope.sql")["all_orgs"], {}))
    wrong = answers(gateway, may_fail=on_citus)
    assert [each for each in ASKED if wrong[each] == right[each]] == []


def test_an_administrator_sees_all_organisations_and_each_one(gateway: Gateway) -> None:
    asked: dict[str, str] = {"start": rfc3339(START), "end": rfc3339(TODAY)}
    every = gateway.get("/usage", ADMIN, **asked, groupBy="org")
    assert {point["orgId"] for point in every["series"]} == {OURS, THEIRS}
    assert gateway.get("/reliability", ADMIN, **asked)["totals"]["invocations"] == 300
    one = [gateway.get(f"/orgs/{org_id}/usage", ADMIN, **asked) for org_id in (OURS, THEIRS)]
    assert sum(each["totals"]["invocations"] for each in one) == 300


def test_a_job_is_made_for_the_organisation_in_scope_alone(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, owner: connection
) -> None:
    body = f'{{"timeRange": {{"start": "{rfc3339(START)}", "end": "{rfc3339(TODAY)}"}}}}'.encode()
    path = f"{PREFIX}/orgs/{OURS}/exports"
    made = [
        gateway.call("POST", path, EVERYTHING, body=body, headers={"Idempotency-Key": "1"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in made] == [202, 202]
    assert made[0].json["jobId"] == made[1].json["jobId"]
    there = f"{PREFIX}/orgs/{THEIRS}/exports/{{}}"
    assert gateway.call("GET", there.format(made[0].json["jobId"]), ADMIN).status_code == 404
    monkeypatch.setattr(GatewayDatabase, "of", lambda self, _, of=GatewayDatabase.of: of(self, THEIRS))
    assert gateway.call("POST", path, EVERYTHING, body=body).status_code == 500
    with owner.cursor() as cur:
        cur.execute("SELECT count(*) FROM analytics.export_jobs")
        assert cur.fetchone() == (3,)


def count(database: TestDatabase, table: str, *begin: str) -> int:
    """Count a table's rows as the gateway's login, after some statements."""
    with closing(connect(database.gateway_url)) as opened, opened.cursor() as cur:
        for statement in begin:
            cur.execute(statement)
        cur.execute(f"SELECT count(*) FROM analytics.{table}")
        [(found,)] = cur.fetchall()
    return int(found)


ONE = "SET ROLE analytics_gateway_one_org"
ALL = "SET ROLE analytics_gateway_all_orgs"


@pytest.mark.parametrize("table", ["rollups", "events_in_scope", "model_freshness", "export_jobs"])
def test_nothing_is_seen_without_a_scope_and_a_half_with_one(
    gateway: Gateway, database: TestDatabase, table: str
) -> None:
    everything = count(database, table, ALL)
    scopes = [f"SELECT analytics.set_scope('{org_id}')" for org_id in (OURS, THEIRS)]
    parts = [count(database, table, ONE, "BEGIN", scope) for scope in scopes]
    assert sum(parts) == everything
    assert min(parts) > 0
    assert count(database, table, ONE) == 0
    assert count(database, table, ONE, "SET analytics.scope = ''") == 0
    # As it is in a session where a transaction with a scope has ended.
    assert count(database, table, ONE, "BEGIN", scopes[0], "COMMIT") == 0
    if not citus_cluster.is_wanted():  # which does not hand on a setting of the session
        with pytest.raises(errors.InvalidTextRepresentation):
            count(database, table, ONE, "SET analytics.scope = 'all'")


@pytest.mark.parametrize("role", [ONE, ALL])
def test_the_gateway_s_roles_read_no_partition_no_key_and_no_audit_log(
    gateway: Gateway, owner: connection, database: TestDatabase, role: str
) -> None:
    with owner.cursor() as cur:
        cur.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'analytics'::regnamespace"
            " AND relkind IN ('r', 'p', 'v') ORDER BY relname"
        )
        tables = [table for (table,) in cur.fetchall()]
    readable = {
        "rollups", "events_in_scope", "model_freshness", "export_jobs", "rollup_dimensions", "dropped_days",
        "latency_bins", "schema_migrations",
    }  # fmt: skip
    # Of batches some columns alone, none of which tells of an organisation; they can be counted.
    readable.add("ingestion_batches")
    if citus_cluster.is_wanted():  # where a view's rights end at the coordinator
        readable.add("usage_events")
    found = set()
    for table in tables:
        with suppress(errors.InsufficientPrivilege):
            count(database, table, role)
            found.add(table)
    assert found == readable
    with pytest.raises(errors.InsufficientPrivilege):
        count(database, "ingestion_batches WHERE correlation_id = 'x'", role)


def test_workers_dashboards_and_the_release_before_see_what_they_saw(
    gateway: Gateway, owner: connection, database: TestDatabase
) -> None:
    with owner.cursor() as cur:
        cur.execute(
            "GRANT SELECT ON analytics.rollups, analytics.model_freshness, analytics.export_jobs"
            " TO analytics_gateway"  # as the release before has it, whose gateway sets no role
        )
        for table in ("rollups", "model_freshness", "export_jobs"):
            cur.execute(f"SELECT count(*) FROM analytics.{table}")
            [(everything,)] = cur.fetchall()
            assert count(database, table) == everything > 0
            cur.execute(
                "SET ROLE analytics_rollup_worker"
                if table != "export_jobs"
                else "SET ROLE analytics_export_worker"
            )
            cur.execute(f"SELECT count(*) FROM analytics.{table}")
            assert cur.fetchall() == [(everything,)]
            cur.execute("RESET ROLE")


def test_a_login_that_may_not_become_the_roles_is_not_ready(gateway: Gateway, owner: connection) -> None:
    ready = f"{PREFIX}/status/readyz"
    assert gateway.call("GET", ready).status_code == 200
    with owner.cursor() as cur:
        cur.execute("REVOKE SELECT ON analytics.schema_migrations FROM analytics_gateway_all_orgs")
    assert gateway.call("GET", ready).status_code == 503
