"""The numbers that are looked up rather than counted. Every worker exports the same truth."""

from shared.metrics import EXPORT_STATUSES, ExportMetrics
from shared.postgres import Database
from shared.statements import load_statements

_SQL = load_statements("export_jobs.sql")


def set_gauges(database: Database, metrics: ExportMetrics) -> None:
    """Show the jobs by status and the ages of the oldest, nothing when they cannot be read.

    Raises DatabaseUnavailable.
    """
    try:
        with database.query() as cur:
            cur.execute(_SQL["counts"])
            found = {status: (jobs, waited, worked) for status, jobs, waited, worked in cur.fetchall()}
    except BaseException:
        for gauge in (metrics.jobs, metrics.oldest_pending_seconds, metrics.oldest_running_seconds):
            gauge.forget()
        raise
    metrics.jobs.show({(status,): found[status][0] if status in found else 0 for status in EXPORT_STATUSES})
    metrics.oldest_pending_seconds.set(found["pending"][1] if "pending" in found else 0)
    metrics.oldest_running_seconds.set(found["running"][2] if "running" in found else 0)
