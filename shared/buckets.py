"""Time buckets: UTC minutes, hours and days, half-open."""

from datetime import UTC, datetime, timedelta

GRAINS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
"""Bucket widths by the name the API uses."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def bucket_start(instant: datetime, grain: str) -> datetime:
    """Return the start of the bucket (UTC) that holds an aware instant. grain: a key of GRAINS."""
    return instant - (instant - _EPOCH) % GRAINS[grain]


def widen(start: datetime, end: datetime, grain: str) -> tuple[datetime, datetime]:
    """Return [start, end) widened to whole buckets, in UTC. Raises OverflowError past year 9999."""
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    last = bucket_start(end, grain)
    return bucket_start(start, grain), last if last == end else last + GRAINS[grain]


def rfc3339(instant: datetime) -> str:
    """Write an aware instant in UTC with `Z`, with microseconds only where there are any."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
