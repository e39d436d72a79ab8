"""Flat: what an event costs, taken in and rolled up, with ten million stored and with none.

Event ids are random, the costly kind: each key lands on another page of a large index, and PostgreSQL
writes a page whole to its log the first time after a checkpoint. So enough events are measured that
this weighs about what it does in operation. What the upkeep does once for each stored key and bucket is done
before: it is no cost of the events that are measured.
"""

from datetime import UTC, datetime, timedelta

from deploy.local.api import wait_until
from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import Publisher, Router, encode
from tests.benchmarks.place import Place, peak_memory_mb
from tests.benchmarks.rows import BenchRow

STORED = 10_000_000
EVENTS = 600_000
_DAYS = 30
_ORGS = 250
_CHUNK = 500_000

_SEED = """
    WITH batch AS (
        INSERT INTO analytics.ingestion_batches (ingestor, received, inserted, dedupe_conflicts,
            content_conflicts, late_arrival, oldest_occurred_at, newest_occurred_at, received_at)
        VALUES ('seed', %(count)s, %(count)s, 0, 0, 0, %(start)s, %(end)s, now())
        RETURNING batch_id
    ), made AS MATERIALIZED (
        SELECT md5('org' || n %% %(orgs)s)::uuid AS org_id, gen_random_uuid() AS event_id,
               %(start)s::timestamptz + random() * (%(end)s::timestamptz - %(start)s::timestamptz)
                   AS occurred_at,
               'provider/model-' || n %% 20 AS model_id, (random() * 3000)::int AS latency_ms, n
        FROM generate_series(1, %(count)s) AS n
    ), keys AS (
        INSERT INTO analytics.event_keys (event_id, org_id, content_digest, first_received_at)
        SELECT event_id, org_id, n, now() FROM made
    )
    INSERT INTO analytics.usage_events (org_id, occurred_at, event_id, batch_id, received_at, model_id,
        status, latency_ms, input_tokens, output_tokens, cost_estimate_cents, metadata)
    SELECT org_id, occurred_at, event_id, batch_id, now(), model_id, 'success', latency_ms, 900, 400,
           0.0195, '{"region": "eu-1"}'
    FROM made, batch"""

_PENDING = """
    SELECT (SELECT count(*) FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL)
         + (SELECT count(*) FROM analytics.key_parts WHERE NOT filter_made)
         + (SELECT (count(*) = 0)::int FROM analytics.key_parts)"""


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure the same traffic on an empty database and on a full one."""
    now = datetime.now(UTC)
    # Of the hour that is going on: one that is over is added to its days, and late events to both. In a new
    # database that comes a minute later than in one that is in use.
    start = (now - timedelta(minutes=10)).replace(minute=0, second=0, microsecond=0)
    router = Router(seed=1, start=start, end=now, orgs=50)
    bodies = [encode(router.events(100)) for _ in range(EVENTS // 100)]
    with Place(stack, "empty") as place:
        empty, _ = _cost(place, bodies, expected=EVENTS)
        write_line(f"flat: {empty:.1f} µs an event on an empty database")
    with Place(stack, "full") as place:
        _seed(place, now, write_line)
        full, memory = _cost(place, bodies, expected=STORED + EVENTS)
        write_line(f"flat: {full:.1f} µs an event with {STORED:,} stored")
    note = ", ".join(f"{name} {peak:.0f} MB" for name, peak in memory.items())
    return [
        BenchRow(
            "cost of an event, 10 million stored", "µs", full, "empty database", empty, 1.3, "most", note
        )
    ]


def _seed(place: Place, now: datetime, write_line: WriteLine) -> None:
    start = now - timedelta(days=_DAYS)
    with place.owner.cursor() as cur:
        cur.execute("SELECT analytics.create_event_partitions(%s::date, %s::date)", (start, now))
        for done in range(0, STORED, _CHUNK):
            cur.execute(_SEED, {"count": _CHUNK, "start": start, "end": now, "orgs": _ORGS})
            if (done + _CHUNK) % 2_000_000 == 0:
                write_line(f"flat: stored {done + _CHUNK:,} of {STORED:,} events")
    # The worker rolls them up like any others, and makes the filter of their keys.
    [worker] = place.fleet.start_ready("rollup_worker")
    wait_until(
        lambda: _pending(place) == 0, seconds=1_200, what="the stored events' rollups", every_seconds=1
    )
    assert worker.stop() == 0, worker.log_tail()
    place.keep_percentiles()
    with place.owner.cursor() as cur:
        cur.execute("VACUUM ANALYZE")
        cur.execute("CHECKPOINT")
    write_line("flat: the stored events are rolled up")


def _cost(place: Place, bodies: list[bytes], *, expected: int) -> tuple[float, dict[str, float]]:
    """Return microseconds an event from first receipt to last rollup, and the processes' peak memory."""
    with Publisher(place.broker_url, place.topology.exchange) as out:
        out.publish(bodies)
    [worker] = place.fleet.start_ready("rollup_worker")
    ingestor = place.fleet.start("ingestor")
    stored = "SELECT sum(inserted) FROM analytics.ingestion_batches WHERE rolled_up_at IS NOT NULL"
    wait_until(lambda: place.number(stored) == expected, seconds=300, what="everything rolled up")
    seconds = place.number(
        "SELECT extract(epoch FROM max(rolled_up_at) - min(received_at)) FROM analytics.ingestion_batches"
        " WHERE ingestor <> 'seed'"
    )
    memory = {process.name: peak_memory_mb(process) for process in (ingestor, worker)}
    assert ingestor.stop() == 0, ingestor.log_tail()
    assert worker.stop() == 0, worker.log_tail()
    return seconds / EVENTS * 1e6, memory


def _pending(place: Place) -> float:
    return place.number(_PENDING)
