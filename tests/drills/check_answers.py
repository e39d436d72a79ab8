"""The part of the checker that is about what clients saw, and how the processes did. Pure functions."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from statistics import median

from tests.drills.found import Found, Key
from tests.drills.history import Record, operations
from tests.drills.verdict import Verdict

ANSWER_DEADLINE_SECONDS = 20.0
RECOVERY_SECONDS = 30.0
_GOOD_STATUSES = {200, 202, 302}

MORE_MEMORY = 1.5
MORE_MEMORY_MB = 60.0
MORE_DESCRIPTORS = 60
"""How much a process may hold at a quiet moment beside what it held at the start."""


def check_answers(history: Sequence[Record], found: Found, verdict: Verdict) -> None:
    """Judge all of it."""
    _check_reads(history, found, verdict)
    _check_downloads(history, verdict)
    _check_markers(history, verdict)
    _check_recoveries(history, verdict)
    verdict.found("I6", "leaked", found.leaks)
    verdict.found("I7", "counter-fell", _fallen_counters(history))
    verdict.found("I8", "ended-badly", _bad_ends(history))
    verdict.found("I8", "grown", _grown(history))


def _check_reads(history: Sequence[Record], found: Found, verdict: Verdict) -> None:
    """I6, I7 and I9: no foreign data, no wrong or late answer, an audit row for each audited answer.

    A request may have two: the gateway writes it again when the reply to its COMMIT is lost. So there is at
    least one for each answer, and none that no request asked for.
    """
    rows = Counter(found.audited)
    requests: set[str] = set()
    unaudited, statuses, late, foreign = [], [], [], []
    away = [
        (name, since, until + RECOVERY_SECONDS)
        for name, since, until in _windows(history)
        if name.startswith("gateway.")
    ]
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
        if good and begun["audited"] and not rows[request_id]:
            unaudited.append(request_id)
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


def _windows(history: Sequence[Record]) -> list[tuple[str, float, float]]:
    """Return each fault's name, and when it began and ended."""
    return [
        (begun["by"], begun["monotonic"], end["monotonic"] if end else float("inf"))
        for begun, end in operations(history, "fault")
    ]


def _check_downloads(history: Sequence[Record], verdict: Verdict) -> None:
    """I4: a file that a client fetched is what the API says, but where a fault has changed it on the way."""
    changing = [window for window in _windows(history) if window[0] == "s3.corrupt_download"]
    differing = []
    for begun, end in operations(history, "download"):
        if end is None or end["state"] != "ok":
            continue
        verdict.downloads += 1
        if end["whole"]:
            continue
        if any(begun["monotonic"] < until and since < end["monotonic"] for _, since, until in changing):
            verdict.mended += 1
        else:
            differing.append(begun["job_id"])
    verdict.found("I4", "download-differs", differing)


def _check_markers(history: Sequence[Record], verdict: Verdict) -> None:
    """Measure how long clients waited for marked events."""
    waits = [
        end["monotonic"] - begun["monotonic"]
        for begun, end in operations(history, "marker")
        if end is not None
    ]
    if waits:
        verdict.median_seen, verdict.worst_seen = median(waits), max(waits)


def _fallen_counters(history: Sequence[Record]) -> Iterator[str]:
    """Yield the counters of one gateway that fell while it lived."""
    last: dict[str, dict[str, float]] = {}
    for record in history:
        if record["kind"] == "metrics" and record["state"] == "ok":
            known = last.setdefault(record["gateway"], {})
            for name, value in record["counters"].items():
                if value < known.get(name, 0.0):
                    yield f"{name}: {known[name]:g}, then {value:g}"
                known[name] = value


def _bad_ends(history: Sequence[Record]) -> Iterator[str]:
    """Yield the faults whose end broke a promise, such as an exit code."""
    for begun, end in operations(history, "fault"):
        if end is not None and end["state"] == "fail":
            yield f"{begun['by']}: {end['why']}"


def _grown(history: Sequence[Record]) -> Iterator[str]:
    """Yield the processes that hold much more at a quiet moment than they did at the start."""
    first: dict[str, tuple[float, int]] = {}
    for record in history:
        if record["kind"] == "holdings" and record["state"] == "ok":
            for slot, (memory_mb, descriptors) in record["held"].items():
                least_mb, least = first.setdefault(slot, (memory_mb, descriptors))
                if memory_mb > MORE_MEMORY * least_mb + MORE_MEMORY_MB:
                    yield f"{slot}: {memory_mb:.0f} MB, and {least_mb:.0f} at the start"
                if descriptors > least + MORE_DESCRIPTORS:
                    yield f"{slot}: {descriptors} descriptors, and {least} at the start"
