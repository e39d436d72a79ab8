"""Cuts: what questions by any dimension and zone cost over HTTP, each beside its goal or a peer.

First one question after the other: reliability beside usage of the same rows, groups beside the seconds that
a person waits, local days beside UTC days. Then a mix of them by many clients at once; the part of it that
the release before can answer is asked of its gateway as well, on the same data.
"""

import statistics
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import org
from shared.buckets import bucket_start, rfc3339
from shared.zones import zone
from tests.benchmarks.crowd import CLIENTS, RELEASE_BEFORE, Client, Question, load_of, medians, release_before
from tests.benchmarks.place import Place, memory_mb
from tests.benchmarks.rows import BenchRow
from tests.support.fleet import Process

REQUESTS = 40

_TODAY = bucket_start(datetime.now(UTC), "day")
_SMALL, _LARGE, _CLIENTS, _ACTORS = (org(number) for number in range(4))

_LOAD = """
    INSERT INTO analytics.{table} (org_id, bucket_start, model_id, value, invocations, errors, status_error,
        status_timeout, status_throttled, input_tokens, output_tokens, cached_input_tokens,
        cache_write_input_tokens, reasoning_tokens, cost_estimate_cents, success_output_tokens,
        success_latency_ms, latency_bins, latency_counts, first_token_bins, first_token_counts)
    SELECT %(org_id)s::uuid, bucket, 'provider/model-' || model, {value}, 400, 20, 10, 5, 5, 40000 + model,
           20000 + model, 1000, 100, 500, 0.0000150000 * (100000 + model), 20000, 400000,
           ARRAY(SELECT (100 + (at * 3 + model) %% 600)::smallint FROM generate_series(1, %(bins)s) at),
           array_fill(400::bigint / %(bins)s, ARRAY[%(bins)s::int]), '{{}}', '{{}}'
    FROM generate_series(%(start)s::timestamptz, %(end)s::timestamptz - interval '1 second',
                         %(step)s::interval) AS bucket,
         generate_series(1, %(models)s) AS model {values}
    ORDER BY bucket, model"""
# Each of 100,000 actors on some days, 300,000 rows in all.
_LOAD_ACTORS = """
    INSERT INTO analytics.rollups_actor_days (org_id, bucket_start, model_id, value, invocations, errors,
        status_error, status_timeout, status_throttled, input_tokens, output_tokens, cached_input_tokens,
        cache_write_input_tokens, reasoning_tokens, cost_estimate_cents, success_output_tokens,
        success_latency_ms, latency_bins, latency_counts, first_token_bins, first_token_counts)
    SELECT %(org_id)s::uuid, %(today)s::timestamptz - (n / 10000) * interval '1 day',
           'provider/model-' || n %% 3,
           'actor-' || (n::bigint * 7919) %% 100000, 4, 0, 0, 0, 0, 4000, 2000, 0, 0, 0,
           0.0000150000 * (1000 + n %% 7770), 2000, 4000, '{12,80}', '{2,2}', '{}', '{}'
    FROM generate_series(0, 299999) AS n ORDER BY 2, 3, 4"""
_LOAD_CODES = """
    INSERT INTO analytics.rollups_error_code_{part} (org_id, bucket_start, model_id, value, invocations)
    SELECT org_id, bucket_start, model_id, code, 10
    FROM analytics.{table}, unnest('{{RATE,TIMEOUT}}'::text[]) AS code"""


def _days(count: int, granularity: str, **more: str) -> str:
    start, end = _TODAY - timedelta(days=count - 1), _TODAY + timedelta(days=1)
    asked = {"start": rfc3339(start), "end": rfc3339(end), "granularity": granularity, **more}
    return "&".join(f"{name}={quote(value)}" for name, value in asked.items())


def _local_days(count: int, name: str) -> str:
    end = _TODAY.replace(tzinfo=zone(name))
    start = end - timedelta(days=count)
    asked = {"start": start.isoformat(), "end": end.isoformat(), "granularity": "day", "timeZone": name}
    return "&".join(f"{key}={quote(value)}" for key, value in asked.items())


USAGE = Question(_SMALL, "usage", _days(7, "hour"))
RELIABILITY = Question(_SMALL, "reliability", _days(7, "hour"))
QUARTER = Question(_LARGE, "reliability", _days(92, "hour"))
BY_CLIENT = Question(_CLIENTS, "usage", _days(30, "day", groupBy="client"))
TOP_ACTORS = Question(_ACTORS, "usage", _days(30, "day", groupBy="actor", top="10"))
ALL_ORGS = Question(None, "usage", _days(30, "day"))
UTC_DAYS = Question(_SMALL, "usage", _days(30, "day"))
NEW_YORK = Question(_SMALL, "usage", _local_days(30, "America/New_York"))
KOLKATA = Question(_SMALL, "usage", _local_days(30, "Asia/Kolkata"))
KNOWN_BEFORE = [Question(_SMALL, "usage", _days(7, "day")), USAGE, RELIABILITY, UTC_DAYS]
MIX = [*KNOWN_BEFORE, BY_CLIENT, TOP_ACTORS, NEW_YORK, Question(_SMALL, "reliability", _days(30, "day"))]


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure medians of single requests, then both releases under load."""
    with Place(stack, "questions") as place:
        _load(place, write_line)
        [gateway] = place.fleet.start_ready("gateway")
        rows = _single(gateway, write_line)
        rows += _quarter(gateway)
        rows += _together(place, gateway, write_line)
    return rows


def _load(place: Place, write_line: WriteLine) -> None:
    with place.owner.cursor() as cur:
        cur.execute("SELECT analytics.add_rollup_dimension(name, name = 'client', NULL)"
                    " FROM unnest('{client,actor}'::text[]) AS name")  # fmt: skip
        cur.execute(
            "UPDATE analytics.rollup_dimensions SET complete_since = NULL,"
            " days_until = CASE WHEN days_until IS NOT NULL THEN %s::timestamptz END",
            (_TODAY + timedelta(days=1),),
        )

    def load(org_id: str, table: str, days: int, *, models: int, bins: int, clients: int = 0) -> None:
        statement = _LOAD.format(
            table=table,
            value="'client-' || client" if clients else "''",
            values=", generate_series(1, %(clients)s) AS client" if clients else "",
        )
        parameters = {
            "org_id": org_id, "models": models, "bins": bins, "clients": clients,
            "start": _TODAY - timedelta(days=days - 1), "end": _TODAY + timedelta(days=1),
            "step": "1 hour" if "hour" in table or "halves" in table else "1 day",
        }  # fmt: skip
        with place.owner.cursor() as cur:
            cur.execute(statement, parameters)

    for org_id, days, models in ((_SMALL, 32, 20), (_LARGE, 92, 50)):
        load(org_id, "hourly_rollups", days, models=models, bins=200)
        load(org_id, "daily_rollups", days, models=models, bins=200)
    load(_SMALL, "rollups_model_halves", 32, models=20, bins=200)
    write_line("questions: loaded two organisations by the hour")
    load(_CLIENTS, "rollups_client_days", 30, models=20, bins=4, clients=50)
    load(_CLIENTS, "daily_rollups", 30, models=20, bins=4)
    load(_ACTORS, "daily_rollups", 30, models=3, bins=4)
    for number in range(50, 300):
        load(org(number), "daily_rollups", 30, models=40, bins=4)
    with place.owner.cursor() as cur:
        cur.execute(_LOAD_ACTORS, {"org_id": _ACTORS, "today": _TODAY})
        for part, table in (("hours", "hourly_rollups"), ("days", "daily_rollups")):
            cur.execute(_LOAD_CODES.format(part=part, table=table))
        cur.execute(
            "INSERT INTO analytics.model_freshness SELECT DISTINCT org_id, model_id, %s::timestamptz,"
            " now() FROM analytics.daily_rollups",
            (_TODAY + timedelta(days=1),),
        )
    place.keep_percentiles([_SMALL, _LARGE])
    with place.owner.cursor() as cur:
        cur.execute("VACUUM ANALYZE")
    write_line("questions: loaded clients, actors and all organisations, and kept percentiles")


def _single(gateway: Process, write_line: WriteLine) -> list[BenchRow]:
    usage, reliability, utc, new_york, kolkata = medians(
        gateway, [USAGE, RELIABILITY, UTC_DAYS, NEW_YORK, KOLKATA], REQUESTS
    )
    by_client, top = medians(gateway, [BY_CLIENT, TOP_ACTORS], REQUESTS)
    [platform] = medians(gateway, [ALL_ORGS], 10)
    write_line(f"questions: reliability {reliability:.0f} ms beside usage {usage:.0f} ms")
    week = "reliability, 7 days by hour, p50"
    return [
        BenchRow(week, "ms", reliability, "goal", 60, 1, "most", "20 models, 200 bins"),
        BenchRow(week, "ms", reliability, "usage of the same rows", usage, 3, "most"),
        BenchRow("usage by client, 30 days, p50", "ms", by_client, "goal", 150, 1, "most", "50 x 20 models"),
        BenchRow("usage, top 10 of 100,000 actors, p50", "ms", top, "goal", 150, 1, "most", "300,000 rows"),
        BenchRow("usage of all organisations, p50", "ms", platform, "goal", 500, 1, "most", "300,000 rows"),
        BenchRow("30 days of New York, p50", "ms", new_york, "UTC", utc, 3, "most", "20 models"),
        BenchRow("30 days of Kolkata, p50", "ms", kolkata, "UTC", utc, 3, "most"),
    ]


def _quarter(gateway: Process) -> list[BenchRow]:
    workers = _workers(gateway)
    idle = max(memory_mb(worker, "VmRSS") for worker in workers)
    client = Client(gateway)
    seconds = client.ask(QUARTER)
    client.close()
    used = max(memory_mb(worker, "VmHWM") for worker in workers) - idle
    name = "reliability, 92 days by hour, 50 models"
    return [
        BenchRow(name, "s", seconds, "goal", 5, 1, "most", "110,400 points"),
        BenchRow(f"{name}: memory", "MB", used, "goal, of a worker over idle", 64, 1, "most"),
    ]


def _workers(gateway: Process) -> list[int]:
    """Return the processes that the gateway's first one has started."""
    pid = gateway.popen.pid
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return [int(child) for child in found]


def _together(place: Place, gateway: Process, write_line: WriteLine) -> list[BenchRow]:
    """Let many clients ask at once; of the release before those questions that it knows."""
    many, slow, refused = load_of(gateway, MIX)
    note = f"{many:.0f} answers/s, {refused} refused"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        before = release_before(place, Path(folder))
        if before is None:
            note += f"; the release before is not measured, this clone has no commit {RELEASE_BEFORE[:7]}"
        else:
            turns = [load_of(each, KNOWN_BEFORE) for _ in range(2) for each in (gateway, before)]
            ours, theirs = turns[::2], turns[1::2]
            name = f"{CLIENTS} clients, questions of 0.1.0"
            (rate, p99, no), (their_rate, their_p99, their_no) = map(_means, (ours, theirs))
            said = f"{no:.0f} refused, {their_no:.0f} by 0.1.0"
            rows = [
                BenchRow(f"{name}, rate", "answers/s", rate, "0.1.0", their_rate, 1, "least", said),
                BenchRow(f"{name}, p99", "ms", p99, "0.1.0", their_p99, 1, "most"),
            ]
            before.kill()
    write_line(f"questions: {CLIENTS} clients get {note}, p99 {slow:.0f} ms")
    name = f"{CLIENTS} clients, all questions, p99"
    return [*rows, BenchRow(name, "ms", slow, "goal", 5000, 1, "most", note)]


def _means(turns: list[tuple[float, float, int]]) -> list[float]:
    return [statistics.mean(each) for each in zip(*turns, strict=True)]
