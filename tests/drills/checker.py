"""The checker: holds a history against what was found at the end. Pure functions.

The words for the queue are those of Jepsen's total-queue: lost, unexpected, duplicated, recovered. I1 to I9
are the invariants of docs/reliability.md.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median

from tests.drills.check_answers import check_answers
from tests.drills.found import Counted, Found, Key, add_up, counted
from tests.drills.history import Record, operations
from tests.drills.verdict import Verdict

Parsed = dict[int, list[Counted]]
"""The events of each publication, by its number, so that a history that grows is read once."""


def check(history: Sequence[Record], found: Found, parsed: Parsed | None = None) -> Verdict:
    """Judge a history."""
    verdict = Verdict()
    _check_queue(history, found, verdict, {} if parsed is None else parsed)
    _check_views(found, verdict)
    _check_exports(found, verdict)
    check_answers(history, found, verdict)
    return verdict


def _check_queue(history: Sequence[Record], found: Found, verdict: Verdict, parsed: Parsed) -> None:
    """I1 and I3: each acknowledged event is counted once, as it was published, or is a dead letter."""
    attempts: defaultdict[Key, set[Counted]] = defaultdict(set)
    first_sent: dict[Key, float] = {}
    letters: set[str] = set()
    confirmed: set[Key] = set()
    confirmed_letters: set[str] = set()
    for begun, end in operations(history, "publish"):
        number = begun["number"]
        if number not in parsed:
            parsed[number] = [counted(event) for event in begun["events"]]
        events = parsed[number]
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
    sums = {
        grain: add_up((row.event for row in found.rows), grain)
        for grain in {grain for grain, _ in found.views.values()}
    }
    for name, (grain, view) in found.views.items():
        wanted = sums[grain]
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
