"""What the statements of cuts read, by their plans: the parts and ranges of keys that a question needs."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from psycopg2.extensions import connection

from deploy.local.traffic import org
from gateway.cuts.statements import statement
from shared.cut import Cut
from shared.cut_plan import Plan
from shared.kept import Kept, read_kept
from tests.support import citus_cluster

pytestmark = pytest.mark.skipif(citus_cluster.is_wanted(), reason="plans on Citus: test_citus.py")

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
DAYS = {"": "daily_rollups", "client": "rollups_client_days", "errorCode": "rollups_error_code_days"}
HOURS = {"": "hourly_rollups", "client": "rollups_client_hours", "errorCode": "rollups_error_code_hours"}

HALVES = {"": "rollups_model_halves", "errorCode": "rollups_error_code_halves"}

ORG = "('000a11ce-0000-4000-8000-' || lpad(({}) :: text, 12, '0'))::uuid"

_FILL = f"""
    INSERT INTO analytics.{{table}} (org_id, bucket_start, model_id, value, invocations, errors, status_error,
        status_timeout, status_throttled, input_tokens, output_tokens, cached_input_tokens,
        cache_write_input_tokens, reasoning_tokens, cost_estimate_cents, success_output_tokens,
        success_latency_ms, latency_bins, latency_counts, first_token_bins, first_token_counts)
    SELECT {ORG.format("o")}, %(end)s::timestamptz - n * %(step)s::interval, 'm' || m, v,
           1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, '{{{{1}}}}', '{{{{1}}}}', '{{{{}}}}', '{{{{}}}}'
    FROM generate_series(0, 19) o, generate_series(0, %(buckets)s - 1) n, generate_series(1, 5) m,
         unnest(%(values)s::text[]) v"""
_EVENTS = f"""
    INSERT INTO analytics.usage_events (org_id, occurred_at, event_id, batch_id, received_at, model_id,
        status, latency_ms, input_tokens, output_tokens, cost_estimate_cents, metadata)
    SELECT {ORG.format("n % 50")}, %(end)s::timestamptz - n * interval '5 seconds', gen_random_uuid(), 1,
           now(), 'm1', 'success', 1, 1, 1, 1, '{{}}'
    FROM generate_series(1, 100000) n""".replace("n % 50", "n %% 50")


@pytest.fixture
def kept(owner: connection) -> Iterator[dict[str, Kept]]:
    """Twenty organisations with sums of 5 models, alone and by 4 clients, of 40 days and of 200 hours."""
    with owner.cursor() as cur:
        cur.execute("SELECT analytics.add_rollup_dimension('client', true, NULL)")
        cur.execute("SELECT analytics.create_event_partitions('2026-03-01', '2026-03-20')")
        for tables, step, buckets in ((DAYS, "1 day", 40), (HOURS, "1 hour", 200), (HALVES, "1 hour", 200)):
            for dimension, table in tables.items():
                values = ["a", "b", "c", "d"] if dimension else [""]
                end = NOW.replace(hour=0)
                cur.execute(
                    _FILL.format(table=table),
                    {"end": end, "step": step, "buckets": buckets, "values": values},
                )
        cur.execute("UPDATE analytics.rollup_dimensions SET complete_since = NULL, days_until = NULL")
        cur.execute("ANALYZE")
        yield read_kept(cur)


def nodes(plan: Any) -> Iterator[Any]:
    """Yield each node of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def scans(owner: connection, name: str, parameters: dict[str, Any]) -> dict[str, str]:
    """Run a statement as the gateway and return what it read, by which index condition; nothing whole."""
    with owner.cursor() as cur:
        cur.execute("SET jit = off; SET enable_sort = off; SET ROLE analytics_gateway_one_org")
        cur.execute("SET analytics.scope = %s", (org(0),))
        cur.execute(f"EXPLAIN (ANALYZE, FORMAT json) {statement(name, parameters)}", parameters)
        [([found],)] = cur.fetchall()
        cur.execute("RESET ROLE")
    read: dict[str, str] = {}
    for node in nodes(found["Plan"]):
        table = node.get("Relation Name", "")
        # TimescaleDB's scan of a table is a node above the scans of its chunks.
        if node["Actual Loops"] and table not in {"", "latency_bins", "ingestion_batches", "usage_events"}:
            condition = node.get("Index Cond") or node.get("Recheck Cond")
            assert condition, f"{name} reads {table} whole: {node['Node Type']}"
            read[table] = condition
    return read


def add_events(owner: connection) -> None:
    """Raw events, many days of them."""
    with owner.cursor() as cur:
        cur.execute(_EVENTS, {"end": NOW})
        cur.execute("ANALYZE analytics.usage_events")


def partitions(owner: connection, *days_of_march: int) -> set[str]:
    """Return the names of the events' partitions, or TimescaleDB's chunks, of some days."""
    with owner.cursor() as cur:
        cur.execute("SELECT to_regclass('timescaledb_information.chunks')")
        if cur.fetchall() == [(None,)]:
            return {f"usage_events_202603{day:02}" for day in days_of_march}
        cur.execute(
            "SELECT chunk_name::text FROM timescaledb_information.chunks"
            " WHERE range_start::date - date '2026-02-28' = ANY(%s)",
            (list(days_of_march),),
        )
        return {name for (name,) in cur.fetchall()}


def plan_of(kept: dict[str, Kept], **asked: Any) -> Plan:
    end = NOW.replace(hour=0)
    start = end - timedelta(days=asked.pop("days", 7))
    tz = ZoneInfo(asked.pop("zone", "UTC"))
    plan = Plan(Cut(start, end, asked.pop("granularity", "day"), tz, org_ids=(org(0),), **asked), kept, NOW)
    plan.waiting = "{}"
    return plan


def tables_read(owner: connection, name: str, parameters: list[dict[str, Any]]) -> set[str]:
    """Return the tables that a statement opens, each of them by organisation and time."""
    found: set[str] = set()
    for each in parameters:
        for table, condition in scans(owner, name, each).items():
            assert "org_id" in condition, f"{table}: {condition}"
            assert "bucket_start" in condition or "occurred_at" in condition, f"{table}: {condition}"
            found.add(table)
    return found


def of_reads(owner: connection, name: str, plan: Plan) -> set[str]:
    reads = plan.largest() if name.startswith("largest") else plan.reads(None)
    as_json = {"begins": plan.buckets, "member": ""} if name == "usage_json" else {}
    return tables_read(owner, name, [read.parameters | as_json for read in reads])


CLIENT = {"dimension": "client", "by_value": True}
ASKED: list[tuple[dict[str, Any], set[str]]] = [
    ({"granularity": "week"}, {DAYS[""]}),
    ({"granularity": "week", "model_ids": ("m1",)}, {DAYS[""]}),
    ({"granularity": "hour", "by_model": False, "days": 2}, {HOURS[""]}),
    ({"zone": "America/New_York"}, {DAYS[""], HOURS[""]}),
    (CLIENT, {DAYS["client"], DAYS[""]}),
    (CLIENT | {"values": ("a",)}, {DAYS["client"]}),
    ({"dimension": "client", "values": ("a",), "granularity": "hour", "days": 2}, {HOURS["client"]}),
    (CLIENT | {"zone": "Europe/Berlin"}, {DAYS["client"], DAYS[""], HOURS["client"], HOURS[""]}),
]


def test_sums_are_read_from_the_parts_and_ranges_that_a_cut_needs(
    owner: connection, kept: dict[str, Kept]
) -> None:
    for asked, tables in ASKED:
        for name in ("usage", "usage_json", "reliability"):
            assert of_reads(owner, name, plan_of(kept, **asked)) == tables, (name, asked)


def test_half_an_hour_at_each_midnight_is_read_from_its_part_and_no_raw_event(
    owner: connection, kept: dict[str, Kept]
) -> None:
    add_events(owner)
    # St John's begins its days at 2:30 UTC, Kolkata at 18:30.
    for zone in ("Asia/Kolkata", "America/St_Johns"):
        for asked, tables in (
            ({}, {DAYS[""], HOURS[""], HALVES[""]}),
            (CLIENT, {DAYS[""], HOURS[""], HALVES[""], DAYS["client"], HOURS["client"]}),
        ):
            plan = plan_of(kept, zone=zone, days=3, **asked)
            assert plan.oldest_event is None
            for name in ("usage", "reliability"):
                assert of_reads(owner, name, plan) == tables
        codes = tables_read(owner, "codes", [plan_of(kept, zone=zone, days=3).codes(None)])
        assert codes == {DAYS["errorCode"], HOURS["errorCode"], HALVES["errorCode"]}


def test_half_an_hour_of_which_no_sums_are_kept_is_read_from_the_events_of_those_days(
    owner: connection, kept: dict[str, Kept]
) -> None:
    add_events(owner)
    with owner.cursor() as cur:
        cur.execute("UPDATE analytics.rollup_dimensions SET halves_since = %s", (NOW + timedelta(days=1),))
        kept = read_kept(cur)
    # The midnights are at 18:30 UTC; a partition is a UTC day.
    days = partitions(owner, *range(16, 21))
    for name in ("usage", "usage_json", "reliability"):
        found = of_reads(owner, name, plan_of(kept, zone="Asia/Kolkata", days=3))
        assert found == {DAYS[""], HOURS[""]} | days


def test_the_largest_groups_are_found_in_the_parts_of_their_dimension(
    owner: connection, kept: dict[str, Kept]
) -> None:
    for values, tables in ((None, {DAYS["client"], DAYS[""]}), (("a",), {DAYS["client"]})):
        plan = plan_of(kept, **CLIENT, values=values, top=2)
        for name in ("largest", "largest_values"):
            assert of_reads(owner, name, plan) == tables


def test_codes_are_read_from_their_own_part(owner: connection, kept: dict[str, Kept]) -> None:
    for granularity, tables in (("week", DAYS), ("hour", HOURS)):
        plan = plan_of(kept, granularity=granularity, days=2)
        assert tables_read(owner, "codes", [plan.codes(None)]) == {tables["errorCode"]}


def test_plain_reads_find_their_rows_by_the_primary_key(owner: connection, kept: dict[str, Kept]) -> None:
    for granularity, tables in (("day", DAYS), ("hour", HOURS)):
        wanted = {"codes": {tables["errorCode"]}, "reliability": {tables[""], tables["errorCode"]}}
        for model_ids in (None, ("m3",)):
            plan = plan_of(kept, granularity=granularity, days=2, model_ids=model_ids)
            assert plan.is_plain
            for name in ("usage", "reliability", "histograms", "size", "codes"):
                found = tables_read(owner, f"plain_{name}", [plan.plain() | {"percentile_at": None}])
                assert found == wanted.get(name, {tables[""]}), (name, granularity, model_ids)
