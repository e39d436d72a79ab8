"""The life of an export job: the gateway creates it, the export worker delivers it.

    insert --> pending --claim--> running --file is whole--> succeeded --retention--> expired
                  ^                 |  |
                  |   given back, or |  '--attempts used up--> failed
                  '--is retried------'

A running job whose lease has ended is claimed again from where it stands. The table's CHECKs forbid every
row that this picture does not have (sql/migrations/0005_export_jobs.sql); a test compares the names below.
"""

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from shared.cut import Cut, groups

EXPORT_STATUSES = ("pending", "running", "succeeded", "failed", "expired")

EXPORT_GRANULARITIES = {"hourly": "hour", "daily": "day", "monthly": "month"}
"""Of cuts, by the names that exports have for them."""

PLAIN_GROUP_BY = "model"


def is_plain(group_by: str, time_zone: str) -> bool:
    """Return whether a job asks for rollups as they are stored: by model, in UTC."""
    return group_by == PLAIN_GROUP_BY and time_zone == "UTC"


def export_cut(
    org_id: str,
    granularity: str,
    *,
    group_by: str,
    tz: ZoneInfo,
    start: datetime,
    end: datetime,
    models: Sequence[str] | None,
) -> Cut:
    """Return the question that a job's file answers. A month is the sum of its days in the window.

    Raises ValueError for a groupBy that is none.
    """
    _, by_model, dimension = groups(group_by)
    return Cut(
        start,
        end,
        EXPORT_GRANULARITIES[granularity],
        tz,
        by_model=by_model,
        dimension=dimension,
        by_value=bool(dimension),
        org_ids=(org_id,),
        model_ids=None if models is None else tuple(models),
        part_months=granularity == "monthly",
    )
