"""The numbers that are looked up rather than counted. Every worker exports the same truth."""

from shared.export_job import EXPORT_STATUSES
from shared.metrics import ExportMetrics
from shared.postgres import Database, fetch_rows
from shared.statements import load_statements

_SQL = load_statements("export_jobs.sql")


def set_gauges(database: Database, metrics: ExportMetrics) -> None:
    """Show the jobs by status and the ages of the oldest, nothing when they cannot be read.

    Raises DatabaseUnavailable.
    """
    try:
        with database.query() as cur:
            found = {row["status"]: row for row in fetch_rows(cur, _SQL["counts"])}
    except BaseException:
        for gauge in (metrics.jobs, metrics.oldest_pending_seconds, metrics.oldest_running_seconds):
            gauge.forget()
        raise
    metrics.jobs.show(
        {(status,): found[status]["jobs"] if status in found else 0 for status in EXPORT_STATUSES}
    )
    metrics.oldest_pending_seconds.set(found["pending"]["since_created"] if "pending" in found else 0)
    metrics.oldest_running_seconds.set(found["running"]["since_started"] if "running" in found else 0)
