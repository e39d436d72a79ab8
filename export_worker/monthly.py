"""Schedules the monthly files: one job for each organisation and UTC month, however often it runs."""

from datetime import UTC, datetime, timedelta

from shared.postgres import Database
from shared.statements import load_statements

_SQL = load_statements("export_jobs.sql")


def schedule_monthly(database: Database, now: datetime) -> int:
    """Create the jobs of the UTC month before now's for every organisation with usage in it.

    Returns how many were created; those that exist already are left alone, whatever became of them.
    Raises DatabaseUnavailable.
    """
    next_month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    month = (next_month - timedelta(days=1)).replace(day=1)
    with database.transaction() as cur:
        cur.execute(_SQL["schedule_month"], {"month": month, "next_month": next_month})
        return cur.rowcount
