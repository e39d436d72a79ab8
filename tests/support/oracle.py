"""What the service must answer, worked out from the published events by the simplest means there are.

Plain loops over plain dictionaries, and the local time of each event by the clock on the wall: nothing of the
service is used here, so that both can only agree by being right. Written from the contract.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

Event = dict[str, Any]
Key = tuple[str, str | None, str | None, str | None, bool]
"""bucketStart, organisation, model, value of the dimension, and whether it is all that is not in the top."""

EXACT = Context(prec=500)
DAY, HOUR, QUARTER = timedelta(days=1), timedelta(hours=1), timedelta(minutes=15)
MAX_TAG = 200
"""Characters of a value of metadata that are distinguished."""

MEMBERS = {
    "client": "clientId",
    "actor": "actorId",
    "apiKey": "apiKeyId",
    "provider": "provider",
    "operation": "operation",
}
SUMS = (
    "inputTokens",
    "outputTokens",
    "costEstimateCents",
    "cachedInputTokens",
    "cacheWriteInputTokens",
    "reasoningTokens",
)


class Question:
    """A question as the API takes it: parameters by name, filters as lists."""

    def __init__(self, parameters: Mapping[str, str | list[str]], org_id: str | None) -> None:
        given = dict(parameters)
        self.start = datetime.fromisoformat(str(given["start"])).astimezone(UTC)
        self.end = datetime.fromisoformat(str(given["end"])).astimezone(UTC)
        self.granularity = str(given.get("granularity", "day"))
        self.zone_name = str(given.get("timeZone", "UTC"))
        self.zone = ZoneInfo(self.zone_name)
        self.org_id = org_id
        default = "model" if org_id is not None else "org"
        names = str(given.get("groupBy", default)).split(",")
        self.by_org, self.by_model = "org" in names, "model" in names
        self.dimension = next((name for name in names if name not in {"org", "model", "none"}), None)
        self.top = int(str(given["top"])) if "top" in given else (50 if org_id is None else None)
        if not (self.by_org or self.by_model or self.dimension):
            self.top = None
        self.order_by = str(given.get("orderBy", "costEstimateCents"))
        self.filters = {
            name: [text[:MAX_TAG] for text in (value if isinstance(value, list) else [value])]
            for name, value in given.items()
            if name in {"modelId", "orgId", *MEMBERS.values()} or name.startswith("metadata.")
        }
        self.compare = "compare" in given


def field(event: Event, name: str) -> Any:
    """Return an event's field, or the first 200 characters of a value of its metadata."""
    if name.startswith("metadata."):
        value = (event.get("metadata") or {}).get(name.removeprefix("metadata."))
        return None if value is None else value[:MAX_TAG]
    return event.get(name)


@cache
def bucket_of(at: datetime, granularity: str, zone: ZoneInfo) -> datetime:
    """Return the begin of the bucket that holds an instant: back while the clock on the wall says that it is
    the same hour, day, week or month. By days first and by quarter hours last, since a bucket has no gaps.
    """
    at = at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)
    if granularity in {"hour", "total"}:
        while at.astimezone(zone).minute:
            at -= QUARTER
        return at
    name = _NAMES[granularity]
    here = name(at.astimezone(zone))
    for step in (DAY, HOUR, QUARTER):
        while name((at - step).astimezone(zone)) == here:
            at -= step
    return at


_NAMES: dict[str, Callable[[datetime], Any]] = {
    "day": lambda wall: wall.date(),
    "week": lambda wall: tuple(wall.isocalendar())[:2],
    "month": lambda wall: (wall.year, wall.month),
}


def start_of(at: datetime, granularity: str, zone: ZoneInfo) -> datetime:
    """Return the begin of an instant's bucket."""
    if granularity == "minute":
        return at.replace(second=0, microsecond=0)
    quarter = at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)
    return bucket_of(quarter, granularity, zone)


def end_of(at: datetime, granularity: str, zone: ZoneInfo) -> datetime:
    """Return an instant if a bucket begins there, else the begin of the next one."""
    step = timedelta(minutes=1) if granularity == "minute" else QUARTER
    here = start_of(at, granularity, zone)
    if here == at:
        return at
    found = here
    for jump in (DAY, HOUR, step):
        while start_of(found + jump, granularity, zone) == here:
            found += jump
    return found + step


def shown(at: datetime, question: Question) -> str:
    """Write an instant as the answers to a question do."""
    if question.zone_name == "UTC":
        return at.isoformat().replace("+00:00", "Z")
    return at.astimezone(question.zone).isoformat()


class Sums:
    """What the answers say of some events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def usage(self) -> dict[str, Any]:
        """Return counts, tokens and cost."""
        found: dict[str, Any] = {
            "invocations": len(self.events),
            "errors": sum(event["status"] != "success" for event in self.events),
        }
        for name in SUMS:
            total: Any = Decimal(0) if name == "costEstimateCents" else 0
            for event in self.events:
                more = event.get(name) or 0
                total = EXACT.add(total, more) if name == "costEstimateCents" else total + more
            found[name] = total
        return found

    def reliability(self) -> dict[str, Any]:
        """Return outcomes, exact percentiles and speed."""
        statuses = Counter(event["status"] for event in self.events)
        successes = [event for event in self.events if event["status"] == "success"]
        milliseconds = sum(event["latencyMs"] for event in successes)
        tokens = sum(event["outputTokens"] for event in successes)
        count = len(self.events)
        errors = count - statuses["success"]
        codes = Counter(
            event["errorCode"]
            for event in self.events
            if event["status"] != "success" and event.get("errorCode") is not None
        )
        ten = sorted(codes.items(), key=lambda item: (-item[1], item[0]))[:10]
        return {
            "invocations": count,
            "errors": errors,
            "errorRate": errors / count if count else None,
            "errorsByStatus": {name: statuses[name] for name in ("error", "timeout", "throttled")},
            "errorCodes": [{"errorCode": code, "count": number} for code, number in ten],
            "latencyMs": percentiles([event["latencyMs"] for event in self.events]),
            "timeToFirstTokenMs": percentiles(
                [at for event in self.events if (at := event.get("timeToFirstTokenMs")) is not None]
            ),
            "outputTokensPerSecond": tokens * 1000 / milliseconds if milliseconds else None,
        }

    def amount(self, name: str) -> Any:
        """Return what groups may be the largest by."""
        return self.usage()[name]


def percentiles(values: Sequence[int]) -> dict[str, int | None]:
    """Return the nearest-rank percentiles."""
    ordered = sorted(values)
    return {
        name: ordered[-(-percent * len(ordered) // 100) - 1] if ordered else None
        for name, percent in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99))
    }


class Answer:
    """The points and totals of a question, and its widened window."""

    def __init__(self, question: Question, events: Iterable[Event], *, keeps_hours: bool = True) -> None:
        granularity = question.granularity
        edges = "day" if granularity == "total" and not keeps_hours else granularity
        self.start = start_of(question.start, edges, question.zone)
        self.end = end_of(question.end, edges, question.zone)
        self._question = question
        self._all = [event for event in events if self._is_asked_for(event)]
        inside = [event for event in self._all if self.start <= _at(event) < self.end]
        self.totals = Sums()
        self.totals.events = inside
        winners = self._winners(inside)
        points: defaultdict[Key, Sums] = defaultdict(Sums)
        for event in inside:
            begin = self.start if granularity == "total" else start_of(_at(event), granularity, question.zone)
            group = self._group(event)
            other = winners is not None and group not in winners
            key = (shown(begin, question), *((None, None, None) if other else group), other)
            points[key].events.append(event)
        self.points = dict(points)

    @property
    def before(self) -> tuple[datetime, Sums]:
        """The begin of the window of the same local length just before this one, and its sums."""
        zone = self._question.zone
        first, last = self.start.astimezone(zone), self.end.astimezone(zone)
        days = all(start_of(at, "day", zone) == at for at in (self.start, self.end))
        if days:
            date = first.date() - (last.date() - first.date())
            begin = datetime(date.year, date.month, date.day, 12, tzinfo=zone).astimezone(UTC)
            begin = start_of(begin, "day", zone)
        else:
            begin = self.start - (self.end - self.start)
        sums = Sums()
        sums.events = [event for event in self._all if begin <= _at(event) < self.start]
        return begin, sums

    def _is_asked_for(self, event: Event) -> bool:
        if self._question.org_id not in {None, event["orgId"]}:
            return False
        return all(field(event, name) in values for name, values in self._question.filters.items())

    def _group(self, event: Event) -> tuple[str | None, str | None, str | None]:
        question = self._question
        name = question.dimension
        return (
            event["orgId"] if question.by_org else None,
            event["modelId"] if question.by_model else None,
            None if name is None else field(event, MEMBERS.get(name, name)),
        )

    def _winners(self, events: Sequence[Event]) -> set[tuple[Any, ...]] | None:
        if self._question.top is None:
            return None
        groups: defaultdict[tuple[Any, ...], Sums] = defaultdict(Sums)
        for event in events:
            groups[self._group(event)].events.append(event)

        def place(group: tuple[Any, ...]) -> tuple[Any, ...]:
            texts = [(text is None, text or "") for text in group]
            return (-groups[group].amount(self._question.order_by), *texts)

        return set(sorted(groups, key=place)[: self._question.top])


def _at(event: Event) -> datetime:
    return datetime.fromisoformat(event["occurredAt"])
