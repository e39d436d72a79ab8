"""Export jobs in the database: claimed with a lease, and written to only by whoever holds the claim.

The states are drawn in shared/export_job.py.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.postgres import Cursor, Database, Row, fetch_rows
from shared.statements import load_statements

# These statements touch a row or two; a database that needs longer is silent or stuck.
TIME_LIMIT_SECONDS = 10

_SQL = load_statements("export_jobs.sql")


@dataclass(frozen=True)
class Job:
    """One claim of one job."""

    org_id: str
    job_id: str
    granularity: str
    window_start: datetime
    window_end: datetime
    models: list[str] | None
    group_by: str
    time_zone: str
    compress: bool
    attempt: int
    fencing_token: int

    @property
    def folder(self) -> str:
        """Prefix of the keys of every object that any attempt at this job made."""
        return f"{self.org_id}/{self.job_id}/"

    @property
    def object_key(self) -> str:
        """Key of this claim's object: no two claims share one, so none overwrites another's."""
        end = ".csv.gz" if self.compress else ".csv"
        return f"{self.folder}attempt-{self.attempt}-{self.fencing_token}{end}"

    @property
    def claim(self) -> dict[str, Any]:
        """The parameters that name this claim in a statement."""
        return {"org_id": self.org_id, "job_id": self.job_id, "fencing_token": self.fencing_token}


class Jobs:
    """The table as one worker uses it. For one thread at a time. All of it raises DatabaseUnavailable."""

    def __init__(self, database: Database, *, worker: str, lease: timedelta, max_attempts: int) -> None:
        self.database = database
        self._worker = worker
        self._lease = lease
        self._max_attempts = max_attempts
        # A worker that is frozen between a statement and its commit holds the job's row, and nobody can take
        # the job over. So the server ends that transaction by the time the lease has ended.
        self._idle_limit = _SQL["limit_idle"], {"lease_ms": round(lease.total_seconds() * 1000)}

    def claim(self) -> Job | None:
        """Take the oldest job that is due, or whose worker's lease has ended; None when there is none."""
        row = self._row(
            "claim_job", {"max_attempts": self._max_attempts, "lease": self._lease, "worker": self._worker}
        )
        if row is None:
            return None
        ids = {name: str(row[name]) for name in ("org_id", "job_id")}
        window = {name: row[name].astimezone(UTC) for name in ("window_start", "window_end")}
        return Job(**(row | ids | window))

    def seconds_until_due(self) -> float | None:
        """Return how long until the next retry is due or lease ends; None when no job waits."""
        row = self._row("seconds_until_due", {})
        return row["seconds"] if row else None

    def extend_lease(self, job: Job, rows_done: int) -> bool:
        """Keep the claim and show progress; False when it was lost."""
        return self._changed("extend_lease", job.claim | {"lease": self._lease, "rows_done": rows_done})

    def succeed(self, job: Job, result: Mapping[str, Any], retention: timedelta) -> bool:
        """Record the delivered object; False when the claim was lost.

        result: row_count, checksum, size_bytes, data_as_of, complete_since, object_key.
        """
        return self._changed("succeed", {**job.claim, **result, "retention": retention})

    def fail_attempt(
        self, job: Job, error: str, pause: timedelta, *, may_succeed_later: bool = True
    ) -> str | None:
        """Record a failure; return "pending" if it will be tried again, "failed" if not, None if lost."""
        max_attempts = self._max_attempts if may_succeed_later else 0
        row = self._row(
            "fail_attempt", job.claim | {"max_attempts": max_attempts, "error": error, "pause": pause}
        )
        return row["status"] if row else None

    def give_back(self, job: Job) -> bool:
        """Let others take the job at once, its attempt not counted; False when the claim was lost."""
        with self._transaction() as cur:
            cur.execute(_SQL["give_back"], job.claim)
            given = cur.rowcount == 1
            cur.execute(_SQL["notify"])
        return given

    def fail_abandoned(self) -> int:
        """Fail the jobs whose last attempt ended without a word; return how many."""
        error = f"The export was begun {self._max_attempts} times, and each time its worker vanished."
        with self._transaction() as cur:
            cur.execute(_SQL["fail_abandoned"], {"max_attempts": self._max_attempts, "error": error})
            return cur.rowcount

    def wait_notified(self, seconds: float) -> bool:
        """Wait until a job is inserted, at most this long; return whether one was, or may have been."""
        return self.database.wait_notified(_SQL["listen"], seconds)

    def _transaction(self) -> AbstractContextManager[Cursor]:
        return self.database.transaction(time_limit_seconds=TIME_LIMIT_SECONDS, beginning=self._idle_limit)

    def _row(self, statement: str, parameters: Mapping[str, Any]) -> Row | None:
        with self._transaction() as cur:
            rows = fetch_rows(cur, _SQL[statement], parameters)
            return rows[0] if rows else None

    def _changed(self, statement: str, parameters: Mapping[str, Any]) -> bool:
        with self._transaction() as cur:
            cur.execute(_SQL[statement], parameters)
            return cur.rowcount == 1
