"""What was found at the end of a drill, in the form in which the checker takes it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from deploy.local.traffic import Sums

Key = tuple[str, str]
"""An event: its organisation and its id."""
Bucket = tuple[str, str, datetime]
"""An organisation, a model, and the UTC hour or day."""
View = dict[Bucket, Sums]


class Counted(NamedTuple):
    """What is counted of an event."""

    org_id: str
    event_id: str
    occurred_at: datetime
    model_id: str
    status: str
    input_tokens: int
    output_tokens: int
    cost_estimate_cents: Decimal

    @property
    def key(self) -> Key:
        return self.org_id, self.event_id


class Row(NamedTuple):
    """A stored event, and when the rollups showed it: seconds since 1970, None if they do not."""

    event: Counted
    visible_at: float | None


@dataclass(frozen=True)
class Job:
    """An export job as the database has it, and its objects: the SHA-256, size and lines of each."""

    job_id: str
    status: str
    checksum: str | None
    size_bytes: int | None
    row_count: int | None
    objects: Sequence[tuple[str, int, int]]

    @property
    def told(self) -> tuple[str | None, int | None, int | None]:
        """What the job says of its object."""
        return self.checksum, self.size_bytes, self.row_count


@dataclass
class Found:
    """What was read when all had settled. views: by name, with the grain in words ("hour", "day")."""

    rows: Sequence[Row] = ()
    views: dict[str, tuple[str, View]] = field(default_factory=dict)
    queued: int = 0
    dead_letters: Sequence[tuple[str, str]] = ()
    """The digest of each body, and its reason."""
    jobs: Sequence[Job] = ()
    audited: Sequence[str] = ()
    """The request id of each row of the audit log."""
    leaks: Sequence[str] = ()
    """Secrets and foreign data where they must not be, in words."""


def counted(event: Sequence[object]) -> Counted:
    """Read an event of a history."""
    org_id, event_id, occurred_at, model_id, status, tokens_in, tokens_out, cost = map(str, event)
    instant = datetime.fromisoformat(occurred_at).astimezone(UTC)
    return Counted(
        org_id, event_id, instant, model_id, status, int(tokens_in), int(tokens_out), Decimal(cost)
    )


def add_up(events: Iterable[Counted], grain: str) -> dict[Bucket, Sums]:
    """Add events up by organisation, model, and UTC hour or day."""
    view: defaultdict[Bucket, Sums] = defaultdict(Sums)
    for event in events:
        bucket = event.occurred_at.replace(minute=0, second=0, microsecond=0)
        sums = view[event.org_id, event.model_id, bucket.replace(hour=0) if grain == "day" else bucket]
        sums.invocations += 1
        sums.errors += event.status != "success"
        sums.input_tokens += event.input_tokens
        sums.output_tokens += event.output_tokens
        sums.cost_estimate_cents += event.cost_estimate_cents
    return dict(view)
