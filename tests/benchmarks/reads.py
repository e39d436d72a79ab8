"""Reads: the usage answer over HTTP against the same SQL through psycopg2 alone, one after the other.

90 days of rollups of 250 organisations with 20 models each are loaded; the requests are for seven days of
one of them, by day and by hour.
"""

import http.client
import statistics
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from psycopg2.extensions import connection

from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import org
from shared.buckets import bucket_start, rfc3339
from shared.statements import load_statements
from tests.benchmarks.place import Place
from tests.benchmarks.rows import BenchRow
from tests.support.seed import connect

ORGS = 250
MODELS = 20
DAYS = 90
REQUESTS = 500

_ORG = org(ORGS // 2)
_ACTOR = {"X-Actor-Subject": "bench", "X-Actor-Roles": "analytics:usage:read", "X-Actor-Orgs": _ORG}

Seconds = dict[str, list[float]]
"""By granularity."""

_SQL = load_statements("cuts.sql")
_LOAD = """
    INSERT INTO analytics.{table} (org_id, bucket_start, model_id, invocations, errors, status_error,
        status_timeout, status_throttled, input_tokens, output_tokens, cost_estimate_cents,
        latency_bins, latency_counts)
    SELECT %(org_id)s, bucket, 'provider/model-' || model, 40, 2, 1, 1, 0, 40000 + model, 20000 + model,
           0.0000150000 * (100000 + model), '{{12,80,133,150}}', '{{10,20,8,2}}'
    FROM generate_series(%(start)s::timestamptz, %(end)s::timestamptz, %(step)s::interval) AS bucket,
         generate_series(1, %(models)s) AS model
    ORDER BY bucket, model"""


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure medians and 99th percentiles of both."""
    with Place(stack, "reads") as place:
        today = bucket_start(datetime.now(UTC), "day")
        _load(place, today, write_line)
        [gateway] = place.fleet.start_ready("gateway")
        address = urlsplit(gateway.url)
        client = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        direct = connect(place.database_url)
        over_http, alone = _measure(client, direct, today)
        client.close()
        direct.close()
        rows = [_row(over_http, alone, percent) for percent in (50, 99)]
        write_line(f"reads by day and by hour: {rows[0].measured:.1f} ms (p50)")
        return rows


def _load(place: Place, today: datetime, write_line: WriteLine) -> None:
    for number in range(ORGS):
        with place.owner.cursor() as cur:
            for table, step in (("hourly_rollups", "1 hour"), ("daily_rollups", "1 day")):
                cur.execute(
                    _LOAD.format(table=table),
                    {
                        "org_id": org(number),
                        "start": today - timedelta(days=DAYS - 1),
                        "end": today + timedelta(hours=23),
                        "step": step,
                        "models": MODELS,
                    },
                )
        if (number + 1) % 50 == 0:
            write_line(f"reads: loaded {DAYS} days of {number + 1} of {ORGS} organisations")
    with place.owner.cursor() as cur:
        cur.execute("VACUUM ANALYZE analytics.hourly_rollups, analytics.daily_rollups")


def _measure(
    client: http.client.HTTPConnection, direct: connection, today: datetime
) -> tuple[Seconds, Seconds]:
    """Return the seconds of each request and of each query, in turns so that noise hits both alike."""
    start, end = today - timedelta(days=6), today + timedelta(days=1)
    over_http: Seconds = {"day": [], "hour": []}
    alone: Seconds = {"day": [], "hour": []}
    for _ in range(REQUESTS):
        for grain in ("day", "hour"):
            query = f"start={rfc3339(start)}&end={rfc3339(end)}&granularity={grain}"
            began = time.perf_counter()
            client.request("GET", f"/analytics/v1/orgs/{_ORG}/usage?{query}", headers=_ACTOR)
            answer = client.getresponse()
            body = answer.read()
            over_http[grain].append(time.perf_counter() - began)
            assert answer.status == 200, body[:500]
            began = time.perf_counter()
            with direct.cursor() as cur:
                minutes = {"day": 1440, "hour": 60}[grain]
                parameters = {"org_id": _ORG, "grain": minutes, "start": start, "end": end, "model_ids": None}
                cur.execute(_SQL["plain_usage"], parameters)
                points = ",".join(row[1] for row in cur.fetchall())
            alone[grain].append(time.perf_counter() - began)
            assert points.count("bucketStart") == body.count(b"bucketStart") > 0
    return over_http, alone


def _row(over_http: Seconds, alone: Seconds, percent: int) -> BenchRow:
    """Return a percentile of a dashboard's two reads, by day and by hour, and in the note each alone."""
    grains = ("day", "hour")
    note = ", ".join(
        f"by {grain} {_ms(over_http, (grain,), percent):.1f} beside {_ms(alone, (grain,), percent):.1f}"
        for grain in grains
    )
    name = f"usage, 7 days by day and hour, p{percent}"
    figures = _ms(over_http, grains, percent), _ms(alone, grains, percent)
    limit = 1.5 if percent == 50 else 2
    return BenchRow(name, "ms", figures[0], "the same SQL alone", figures[1], limit, "most", note)


def _ms(seconds: Seconds, grains: tuple[str, ...], percent: int) -> float:
    sums = [sum(each) for each in zip(*(seconds[grain] for grain in grains), strict=True)]
    return float(statistics.quantiles(sums, n=100)[percent - 1]) * 1000
