"""The question that usage, reliability and CSV answer: which events, and by what they are grouped.

A cut knows nothing of HTTP and nothing of SQL.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from shared.zones import ZONE_UTC, boundaries, whole_days

MEMBERS = {
    "client": "clientId",
    "actor": "actorId",
    "apiKey": "apiKeyId",
    "provider": "provider",
    "operation": "operation",
}
"""The event field of each dimension; that of `metadata.<key>` has the dimension's own name."""

COLUMNS = {
    "client": "client_id",
    "actor": "actor_id",
    "apiKey": "api_key_id",
    "provider": "provider",
    "operation": "operation",
}
"""The same in snake case, as columns of files are named."""

METADATA = "metadata."
_METADATA_NAME = re.compile(r"metadata\.[A-Za-z0-9_.-]{1,64}")

MAX_TAG_LENGTH = 200
"""Characters of a value of metadata that rollups keep; longer ones that begin alike are one group."""

ORDERS = ("costEstimateCents", "invocations", "errors", "inputTokens", "outputTokens")
"""What the largest groups may be the largest by; the first by default."""

MAX_WINDOWS = {
    "minute": timedelta(hours=6),
    "hour": timedelta(days=92),
    "day": timedelta(days=400),
    "week": timedelta(days=400),
    "month": timedelta(days=400),
    "total": timedelta(days=400),
}
"""The longest window of each granularity, before it is widened."""


@dataclass(frozen=True)
class Cut:
    """One question. Dimensions are named as in MEMBERS, or `metadata.<key>`.

    start, end: the window as asked for, [start, end). by_value: group by the values of `dimension`; without
    it a dimension is there because of its filter. org_ids, model_ids, values: only these; None means all.
    top: keep so many of the largest groups by `order_by`, and fold the rest into one. part_months: the window
    is widened to days, and its first and last month are those of their days that are in it.
    """

    start: datetime
    end: datetime
    granularity: str
    tz: ZoneInfo
    by_org: bool = False
    by_model: bool = True
    dimension: str = ""
    by_value: bool = False
    org_ids: tuple[str, ...] | None = None
    model_ids: tuple[str, ...] | None = None
    values: tuple[str, ...] | None = None
    top: int | None = None
    order_by: str = ORDERS[0]
    compare: bool = False
    part_months: bool = False

    def boundaries(self, *, keeps_hours: bool) -> list[datetime]:
        """Return the boundaries of the buckets, in UTC and ascending: the window widened to whole buckets.

        keeps_hours: whether there are sums by the hour, else a total is one of whole days. Raises
        OverflowError near the calendar's ends.
        """
        if self.granularity == "minute":
            return boundaries(self.start, self.end, "minute", ZONE_UTC)
        if self.granularity == "total" and not keeps_hours:
            return whole_days(self.start, self.end, self.tz)
        if self.part_months:
            first, last = whole_days(self.start, self.end, self.tz)
            months = boundaries(first, last, "month", self.tz)
            return [first, *(at for at in months if first < at < last), last]
        return boundaries(self.start, self.end, self.granularity, self.tz)


def is_dimension(name: str) -> bool:
    """Return whether there may be a dimension of this name."""
    return name in MEMBERS or _METADATA_NAME.fullmatch(name) is not None


def groups(text: str, *, platform: bool = False) -> tuple[bool, bool, str]:
    """Read a groupBy: whether by organisation, whether by model, and by which dimension, '' for none.

    platform: of all organisations and not of one. Raises ValueError with what it must be.
    """
    if text == "none":
        return False, False, ""
    names = text.split(",")
    fixed = ("org", "model") if platform else ("model",)
    dimensions = [name for name in names if name not in fixed]
    if len(dimensions) > 1 or len(set(names)) < len(names) or not all(map(is_dimension, dimensions)):
        known = ", ".join([*fixed, *MEMBERS])
        raise ValueError(
            "must be none, or model and at most one dimension, separated by a comma; "
            f"there are {known} and metadata.<key>"
        )
    return "org" in names, "model" in names, dimensions[0] if dimensions else ""


def member(dimension: str) -> str:
    """Return the name of a dimension's member in answers."""
    return MEMBERS.get(dimension, dimension)


def column(dimension: str) -> str:
    """Return the name of a dimension's column in files."""
    return COLUMNS.get(dimension, dimension)
