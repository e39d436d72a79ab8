"""The checker: holds a history against what was found at the end. Pure functions.

The words for the queue are those of Jepsen's total-queue: lost, unexpected, duplicated, recovered. I1 to I9
are the invariants of docs/reliability.md.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.drills.found import Counted, Found, Key, add_up, counted
from tests.drills.history import Record

ANSWER_DEADLINE_SECONDS = 20.0
RECOVERY_SECONDS = 30.0
_MAX_EXAMPLES = 3
_GOOD_STATUSES = {200, 202, 302}


@dataclass(frozen=True)
class Finding:
    """A broken invariant: its number, one word for what is wrong, how often, and examples."""

    invariant: str
    kind: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.invariant} {self.kind}: {self.count:,}, e.g. {'; '.join(self.examples)}"


@dataclass
class Verdict:
    """What a history came to. Times in seconds."""

    attempted: int = 0
    acknowledged: int = 0
    counted: int = 0
    recovered: int = 0
    resent: int = 0
    unconfirmed: int = 0
    """Messages whose confirmation never came; they were sent again."""
    dead_letters: int = 0
    answers: int = 0
    refused: int = 0
    unanswered: int = 0
    exports: int = 0
    median_visible: float = 0.0
    p95_visible: float = 0.0
    worst_visible: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every invariant held."""
        return not self.findings

    def count(self, kind: str) -> int:
        """Return how often something was wrong, 0 if never."""
        return sum(finding.count for finding in self.findings if finding.kind == kind)

    def found(self, invariant: str, kind: str, what: Iterable[object]) -> None:
        """Note what is wrong, if anything is."""
        if wrong := [str(each) for each in what]:
            self.findings.append(Finding(invariant, kind, len(wrong), tuple(wrong[:_MAX_EXAMPLES])))


def check(history: Sequence[Record], found: Found) -> Verdict:
    """Judge a history."""
    verdict = Verdict()
    _check_queue(history, found, verdict)
    _check_views(found, verdict)
    _check_exports(found, verdict)
    _check_reads(history, found, verdict)
    _check_recoveries(history, verdict)
    return verdict


def _check_queue(history: Sequence[Record], found: Found, verdict: Verdict) -> None:
    """I1 and I3: each acknowledged event is counted once, as it was published, or is a dead letter."""
    attempts: defaultdict[Key, set[Counted]] = defaultdict(set)
    first_sent: dict[Key, float] = {}
    letters: set[str] = set()
    confirmed: set[Key] = set()
    confirmed_letters: set[str] = set()
    for begun, end in operations(history, "publish"):
        events = [counted(event) for event in begun["events"]]
        for event in events:
            verdict.resent += event.key in attempts
            attempts[event.key].add(event)
            first_sent.setdefault(event.key, begun["utc"])
        letters.update(begun.get("malformed", ()))
        verdict.unconfirmed += end is None or end["state"] == "unknown"
        if end is not None and end["state"] == "ok":
            confirmed.update(event.key for event in events)
            confirmed_letters.update(begun.get("malformed", ()))
    counts = Counter(row.event.key for row in found.rows)
    verdict.attempted, verdict.acknowledged, verdict.counted = len(attempts), len(confirmed), len(counts)
    verdict.recovered = len((counts.keys() & attempts.keys()) - confirmed)
    verdict.dead_letters = len(found.dead_letters)
    verdict.found("I1", "lost", sorted(confirmed - counts.keys()))
    verdict.found("I1", "unexpected", sorted(counts.keys() - attempts.keys()))
    verdict.found("I1", "duplicated", sorted(key for key, count in counts.items() if count > 1))
    verdict.found(
        "I1",
        "changed",
        (
            row.event
            for row in found.rows
            if row.event.key in attempts and row.event not in attempts[row.event.key]
        ),
    )
    verdict.found("I1", "queued", [f"{found.queued} messages"] if found.queued else [])
    dead = {digest for digest, _ in found.dead_letters}
    verdict.found("I1", "dead-letter-lost", sorted(confirmed_letters - dead))
    verdict.found(
        "I1", "innocent-dead-letter", [each for each in found.dead_letters if each[0] not in letters]
    )
    verdict.found(
        "I1", "dead-letter-without-reason", [digest for digest, reason in found.dead_letters if not reason]
    )
    verdict.found("I2", "not-visible", [row.event.key for row in found.rows if row.visible_at is None])
    waits = sorted(
        row.visible_at - first_sent[row.event.key]
        for row in found.rows
        if row.visible_at is not None and row.event.key in first_sent
    )
    if waits:
        verdict.median_visible = median(waits)
        verdict.p95_visible = waits[int(len(waits) * 0.95)]
        verdict.worst_visible = waits[-1]


def _check_views(found: Found, verdict: Verdict) -> None:
    """I2: each view has the exact sums of the rows by organisation, model and bucket."""
    for name, (grain, view) in found.views.items():
        wanted = add_up((row.event for row in found.rows), grain)
        given = dict(view)
        verdict.found(
            "I2",
            "sums-differ",
            (
                f"{name} {org_id} {model_id} {bucket:%F %H}h: {given.get((org_id, model_id, bucket))}"
                f" and not {wanted.get((org_id, model_id, bucket))}"
                for org_id, model_id, bucket in sorted(wanted.keys() | given.keys())
                if wanted.get((org_id, model_id, bucket)) != given.get((org_id, model_id, bucket))
            ),
        )


def _check_exports(found: Found, verdict: Verdict) -> None:
    """I4 and I5: a job that succeeded has exactly one whole object, and every job has ended."""
    verdict.exports = len(found.jobs)
    done = [job for job in found.jobs if job.status == "succeeded"]
    verdict.found(
        "I4", "objects", [f"{job.job_id}: {len(job.objects)}" for job in done if len(job.objects) != 1]
    )
    verdict.found(
        "I4",
        "file-differs",
        [
            job.job_id
            for job in done
            if [(job.checksum, job.size_bytes, job.row_count)] != list(job.objects[:1])
        ],
    )
    ended = {"succeeded", "failed", "expired"}
    verdict.found("I5", "export-not-ended", [job.job_id for job in found.jobs if job.status not in ended])


def _check_reads(history: Sequence[Record], found: Found, verdict: Verdict) -> None:
    """I6, I7 and I9: no foreign data, no wrong or late answer, one audit row for each audited answer."""
    rows = Counter(found.audited)
    requests: set[str] = set()
    unaudited, statuses, late, foreign = [], [], [], []
    away = [window for window in _fault_windows(history) if window[0] == "gateway"]
    for begun, end in operations(history, "read"):
        request_id = begun["request_id"]
        requests.add(request_id)
        if end is None or end["state"] == "unknown":
            verdict.unanswered += 1
            continue
        status = end["status"]
        good = status in _GOOD_STATUSES
        verdict.answers += good
        verdict.refused += status == 503
        if good and begun["audited"] and rows[request_id] != 1:
            unaudited.append(f"{request_id}: {rows[request_id]} rows")
        if end.get("foreign") or (good and begun["forbidden"]):
            foreign.append(request_id)
        if not good and status != 503 and not (status == 403 and begun["forbidden"]):
            statuses.append(f"{status} to {begun['path']}")
        took = end["monotonic"] - begun["monotonic"]
        overlaps = any(begun["monotonic"] < until and since < end["monotonic"] for _, since, until in away)
        if took > ANSWER_DEADLINE_SECONDS and not overlaps:
            late.append(f"{took:.1f} s for {begun['path']}")
    verdict.found("I6", "foreign-data", foreign)
    verdict.found("I7", "status", statuses)
    verdict.found("I7", "late-answer", late)
    verdict.found("I7", "wrong-answer", _wrong_answers(history))
    verdict.found("I9", "unaudited", unaudited)
    verdict.found("I9", "audited-unasked", sorted(rows.keys() - requests))


def _wrong_answers(history: Sequence[Record]) -> Iterator[str]:
    """Yield the answers with fewer events than an earlier one had, or more than were published."""
    published: defaultdict[str, set[Key]] = defaultdict(set)
    shown: defaultdict[str, int] = defaultdict(int)
    at_least: dict[int, int] = {}
    orgs: dict[int, str] = {}
    for record in history:
        if record["kind"] == "publish" and record["state"] == "invoke":
            for event in record["events"]:
                published[event[0]].add((event[0], event[1]))
        elif record["kind"] == "read" and record["state"] == "invoke":
            orgs[record["number"]] = record["org_id"]
            at_least[record["number"]] = shown[record["org_id"]]
        elif record["kind"] == "read" and record.get("invocations") is not None:
            org_id, given = orgs[record["number"]], record["invocations"]
            least, most = at_least[record["number"]], len(published[org_id])
            if not least <= given <= most:
                yield f"{org_id}: {given} events, and not {least} to {most}"
            shown[org_id] = max(shown[org_id], given)


def _check_recoveries(history: Sequence[Record], verdict: Verdict) -> None:
    """I8: everything is ready and settled soon after the end of each fault."""
    slow = []
    for begun, end in operations(history, "recovery"):
        if end is None or end["state"] != "ok" or end["seconds"] > RECOVERY_SECONDS:
            slow.append(f"after {begun['by']}: {(end or {}).get('why', 'never')}")
    verdict.found("I8", "recovery", slow)


def _fault_windows(history: Sequence[Record]) -> list[tuple[str, float, float]]:
    """Return each fault's target, and when it began and was recovered from."""
    return [
        (begun["target"], begun["monotonic"], end["monotonic"] + RECOVERY_SECONDS if end else float("inf"))
        for begun, end in operations(history, "fault")
    ]


def operations(history: Iterable[Record], kind: str) -> list[tuple[Record, Record | None]]:
    """Return each operation's begin, and its end if it has one."""
    begun: dict[int, Record] = {}
    ends: dict[int, Record] = {}
    for record in history:
        if record["kind"] == kind:
            (begun if record["state"] == "invoke" else ends)[record["number"]] = record
    return [(record, ends.get(number)) for number, record in begun.items()]
