"""What tests of exports share: rollups put straight into the tables, jobs made as the gateway does."""

import csv
import gzip
import hashlib
import io
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import urllib3
from psycopg2.extensions import connection
from psycopg2.extras import RealDictCursor, execute_values

from export_worker.worker import Worker
from shared.process import Stop
from shared.s3 import ObjectStore
from shared.settings import ExportWorkerSettings, ObjectStoreSettings, load
from shared.statements import load_statements
from tests.support.fleet import free_port
from tests.support.places import TestDatabase
from tests.support.seed import connect

ORG = "00000000-0000-4000-8000-00000000000a"
OTHER_ORG = "00000000-0000-4000-8000-00000000000b"
START = datetime(2026, 3, 1, tzinfo=UTC)
HEADER = [
    "bucket_start", "org_id", "model_id", "invocations", "errors",
    "input_tokens", "output_tokens", "cost_estimate_cents",
]  # fmt: skip

SQL = load_statements("export_jobs.sql")

Row = dict[str, Any]


@dataclass(frozen=True)
class Rollup:
    """One row of a rollup table."""

    bucket_start: datetime
    model_id: str = "model"
    org_id: str = ORG
    invocations: int = 10
    errors: int = 1
    input_tokens: int = 100
    output_tokens: int = 50
    cost: Decimal = Decimal("0.000015")

    @property
    def cells(self) -> list[str]:
        """The cells of its line in a file."""
        return [
            self.bucket_start.strftime("%Y-%m-%dT%H:%M:%SZ"), self.org_id, self.model_id,
            str(self.invocations), str(self.errors), str(self.input_tokens), str(self.output_tokens),
            plain(self.cost),
        ]  # fmt: skip


def plain(number: Decimal) -> str:
    """Write a decimal without an exponent or zeros at its end."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


_INSERT = """INSERT INTO analytics.{} (org_id, bucket_start, model_id, invocations, errors, status_error,
    status_timeout, status_throttled, input_tokens, output_tokens, cost_estimate_cents,
    latency_bins, latency_counts) """


def insert_rollups(owner: connection, table: str, rollups: list[Rollup]) -> None:
    """Put rows into hourly_rollups or daily_rollups."""
    rows = [
        (r.org_id, r.bucket_start, r.model_id, r.invocations, r.errors, r.errors, 0, 0, r.input_tokens,
         r.output_tokens, r.cost, [5], [r.invocations])
        for r in rollups
    ]  # fmt: skip
    with owner.cursor() as cur:
        execute_values(cur, _INSERT.format(table) + "VALUES %s", rows, page_size=1000)


def insert_many(owner: connection, hours: int, models: int, name_length: int = 100) -> None:
    """Put hours x models rows with long names into hourly_rollups, quickly."""
    with owner.cursor() as cur:
        cur.execute(
            _INSERT.format("hourly_rollups")
            + """SELECT %s, %s + hour * interval '1 hour', rpad('model-' || model, %s, 'x'), 7, 2, 2, 0, 0,
                 model * 1000, hour, 0.0000150000 * model, '{5}', '{7}'
            FROM generate_series(0, %s - 1) AS hour, generate_series(1, %s) AS model""",
            (ORG, START, name_length, hours, models),
        )


@dataclass
class Exports:
    """One test's exports: its database seen as the owner and as the gateway, its bucket, its workers."""

    database: TestDatabase
    s3: dict[str, str]
    owner: connection
    gateway: connection

    @property
    def store(self) -> ObjectStore:
        """The bucket, with rights of its own."""
        return ObjectStore(load(ObjectStoreSettings, self.s3))

    def create(self, **request: Any) -> Row:
        """Create a job as the gateway does."""
        row = self.ask("create_job", **asked(**request))
        assert row is not None
        return row

    def ask(self, statement: str, **parameters: Any) -> Row | None:
        """Run a statement of the gateway's as the gateway; return its first row."""
        with self.gateway.cursor(cursor_factory=RealDictCursor) as cur:
            cur.execute(SQL[statement], parameters)
            row = cur.fetchone()
            return dict(row) if row else None

    def job(self, created: Mapping[str, Any]) -> Row:
        """Return a job's whole row as it is now."""
        [row] = self.rows(
            "SELECT * FROM analytics.export_jobs WHERE org_id = %s AND job_id = %s",
            created["org_id"],
            created["job_id"],
        )
        return row

    def rows(self, query: str, *parameters: Any) -> list[Row]:
        """Ask as the owner."""
        with self.owner.cursor(cursor_factory=RealDictCursor) as cur:
            cur.execute(query, parameters)
            return [dict(row) for row in cur.fetchall()] if cur.description else []

    def wait(self, created: Mapping[str, Any], *statuses: str, seconds: float = 30) -> Row:
        """Wait until a job is in one of the statuses; return its row."""
        deadline = time.monotonic() + seconds
        while (row := self.job(created))["status"] not in statuses:
            assert time.monotonic() < deadline, f"not {statuses} in {seconds} s: {row}"
            time.sleep(0.05)
        return row

    def download(self, row: Row) -> bytes:
        """Return a succeeded job's object as its link gives it."""
        url = self.store.signed_url(
            row["object_key"], expires=timedelta(minutes=1), file_name="export.csv", content_type="text/csv"
        )
        answer = urllib3.request("GET", url, retries=False, timeout=20)
        assert answer.status == 200, answer.data
        return answer.data

    def lines(self, row: Row) -> list[list[str]]:
        """Return a succeeded job's cells without the header, with all it promises checked."""
        data = self.download(row)
        assert len(data) == row["size_bytes"]
        text = gzip.decompress(data) if row["compress"] else data
        assert hashlib.sha256(text).hexdigest() == row["checksum"]
        header, *lines = csv.reader(io.StringIO(text.decode(), newline=""))
        assert header == HEADER
        assert len(lines) == row["row_count"] == row["rows_done"]
        return lines

    def deliver(self, **request: Any) -> Row:
        """Create a job, let a worker deliver it, return its row."""
        with self.worker():
            return self.wait(self.create(**request), "succeeded")

    def settings(self, **changes: str) -> ExportWorkerSettings:
        """The settings of a worker of this test's."""
        environ = {
            "DATABASE_URL": self.database.export_worker_url,
            "METRICS_PORT": str(free_port()),
            **self.s3,
        }
        return load(ExportWorkerSettings, environ | changes)

    @contextmanager
    def worker(self, **changes: str) -> Iterator[Worker]:
        """A worker in a thread of this process, stopped at the end."""
        stop = Stop()
        worker = Worker(self.settings(**changes), stop)
        thread = threading.Thread(target=worker.run, name="worker")
        thread.start()
        try:
            yield worker
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()

    def unfinished_uploads(self) -> int:
        """Count the uploads of the bucket that were begun and not completed."""
        return len(self.store._client._list_multipart_uploads(self.s3["S3_BUCKET"]).uploads)

    def objects(self) -> list[str]:
        """Return the keys of the bucket's objects."""
        return sorted(self.store.keys(""))


def asked(**changes: Any) -> Row:
    """Return a request's parameters: a daily export of March's first week, but for the changes."""
    return {
        "org_id": ORG, "granularity": "daily", "window_start": START, "window_end": START + timedelta(days=7),
        "models": None, "group_by": "model", "time_zone": "UTC", "compress": False,
        "requested_by": "tester", "idempotency_key": None,
    } | changes  # fmt: skip


@contextmanager
def open_exports(database: TestDatabase, s3: dict[str, str]) -> Iterator[Exports]:
    """Open what a test of exports works with."""
    owner, gateway = connect(database.owner_url), connect(database.gateway_url)
    exports = Exports(database, s3, owner, gateway)
    exports.store.ensure_bucket()
    yield exports
    owner.close()
    gateway.close()
