"""Exports: a million rollup rows to S3 against `psql \\copy` of the same query to a file.

The worker runs from the Procfile. Its time is that of the job in its table, from claim to the last write;
psql's is that of its process. The best of three rounds counts for each. Memory is the most the worker
ever had resident, less what it had when idle.
"""

import re
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deploy.local import machine
from deploy.local.api import Api, wait_until
from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import org
from shared.buckets import rfc3339
from shared.s3 import ObjectStore
from shared.settings import ObjectStoreSettings, load
from shared.statements import load_statements
from tests.benchmarks.place import Place, memory_mb, peak_memory_mb
from tests.benchmarks.rows import BenchRow

MODELS = 1_345
HOURS = 31 * 24
ROUNDS = 3
MOST_MEMORY_MB = 64

_START = datetime(2026, 3, 1, tzinfo=UTC)
_WINDOW = {
    "org_id": org(0),
    "window_start": _START,
    "window_end": _START + timedelta(hours=HOURS),
    "models": None,
}
_LOAD = """
    INSERT INTO analytics.hourly_rollups (org_id, bucket_start, model_id, invocations, errors, status_error,
        status_timeout, status_throttled, input_tokens, output_tokens, cost_estimate_cents,
        latency_bins, latency_counts)
    SELECT %(org_id)s, %(window_start)s + hour * interval '1 hour', 'provider/model-' || model,
           40, 2, 1, 1, 0, 40000 + model, 20000 + hour, 0.0000150000 * (100000 + model),
           '{12,80,133,150}', '{10,20,8,2}'
    FROM generate_series(0, %(hours)s - 1) AS hour, generate_series(1, %(models)s) AS model
    ORDER BY hour, model"""


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure rows per second of both, and the worker's memory."""
    with Place(stack, "exports") as place:
        write_line(f"loading {HOURS * MODELS:,} hourly rollups")
        with place.owner.cursor() as cur:
            cur.execute(_LOAD, {**_WINDOW, "hours": HOURS, "models": MODELS})
            cur.execute("VACUUM ANALYZE analytics.hourly_rollups")
        [worker] = place.fleet.start_ready("export_worker", EXPORT_WORKER_CONCURRENCY="1")
        time.sleep(3)
        idle_mb = memory_mb(worker.popen.pid, "VmRSS")
        ours, psql, summed = [], [], []
        for _ in range(ROUNDS):
            psql.append(_copy_with_psql(place))
            ours.append(_export(place))
            summed.append(_export(place, time_zone="Etc/UTC"))
        peak_mb = peak_memory_mb(worker)
        count = place.number("SELECT row_count FROM analytics.export_jobs LIMIT 1")
        size_mb = place.number("SELECT size_bytes FROM analytics.export_jobs LIMIT 1") / 1e6
        small = _small_exports(place)
        _remove_objects(stack, place)
    write_line(
        f"exports: {min(ours):.1f} s for {size_mb:.0f} MB, psql {min(psql):.1f} s, {peak_mb - idle_mb:.0f} MB"
    )
    return [
        BenchRow(
            "export of a million rows to S3", "rows/s", count / min(ours),
            "psql \\copy to a file", count / min(psql), 0.6, "least", f"{size_mb:.0f} MB",
        ),
        BenchRow(
            "the same rows as a cut, summed", "rows/s", count / min(summed),
            "psql \\copy to a file", count / min(psql), 0.05, "least",
        ),
        BenchRow(
            "memory of the export over idle", "MB", peak_mb - idle_mb,
            "allowed", MOST_MEMORY_MB, 1, "most", f"idle {idle_mb:.0f} MB",
        ),
        BenchRow("small export, POST to downloadable, p50", "s", small, "limit", 1, 1, "most"),
    ]  # fmt: skip


def _small_exports(place: Place) -> float:
    """Return the median seconds from asking the gateway for an hour's export to its being downloadable."""
    [gateway] = place.fleet.start_ready("gateway")
    api = Api(gateway.url)
    path = f"/orgs/{org(0)}/exports"
    end = _START + timedelta(hours=1)
    body = {"timeRange": {"start": rfc3339(_START), "end": rfc3339(end)}, "granularity": "hourly"}
    seconds = []
    for _ in range(20):
        began = time.monotonic()
        job = api.call("POST", f"/analytics/v1{path}", json=body).json()
        wait_until(
            lambda job=job: api.get(f"{path}/{job['jobId']}")["status"] == "succeeded",  # type: ignore[misc]
            seconds=30, what="a small export", every_seconds=0.01,
        )  # fmt: skip
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds)


def _export(place: Place, *, time_zone: str = "UTC") -> float:
    """Create a job as the gateway does and wait for it; return the seconds it took."""
    with place.owner.cursor() as cur:
        cur.execute(
            load_statements("export_jobs.sql")["create_job"],
            {
                **_WINDOW,
                "granularity": "hourly",
                "group_by": "model",
                "time_zone": time_zone,
                "compress": False,
                "requested_by": "benchmark",
                "idempotency_key": None,
            },
        )
    unfinished = "SELECT count(*) FROM analytics.export_jobs WHERE status <> 'succeeded'"
    wait_until(lambda: place.number(unfinished) == 0, seconds=300, what="the export")
    return place.number(
        "SELECT extract(epoch FROM completed_at - started_at) FROM analytics.export_jobs"
        " ORDER BY created_at DESC LIMIT 1"
    )


def _copy_with_psql(place: Place) -> float:
    """Let psql write the same rows to a file; return the seconds it took."""
    with place.owner.cursor() as cur:
        statement = cur.mogrify(load_statements("export_csv.sql")["hourly"], _WINDOW).decode()
    # psql takes \copy on one line, with the place to write to where the server's statement says STDOUT.
    one_line = " ".join(line for line in statement.splitlines() if not line.startswith("--")).rstrip(";")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copied.csv"
        command = re.sub(r"^COPY (.*) TO STDOUT ", lambda found: rf"\copy {found[1]} TO '{path}' ", one_line)
        began = time.monotonic()
        subprocess.run(
            [str(machine.postgres_folder() / "psql"), "-X", "-q", "-d", place.database_url, "-c", command],
            check=True,
            timeout=120,
        )
        seconds = time.monotonic() - began
        with path.open("rb") as copied:
            assert sum(1 for _ in copied) == HOURS * MODELS + 1
    return seconds


def _remove_objects(stack: LocalStack, place: Place) -> None:
    store = ObjectStore(load(ObjectStoreSettings, stack.settings))
    for (key,) in place.rows("SELECT object_key FROM analytics.export_jobs"):
        store.remove(str(key))
