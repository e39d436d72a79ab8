"""Drills of a lost primary: PostgreSQL is killed under load and its standby promoted, as an operator would.

No process is restarted or told anything: each knows both hosts from the start.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from deploy.local.stack import LocalStack
from deploy.local.traffic import Event, Publisher, encode
from tests.drills.drill import Drill
from tests.drills.found import Key
from tests.drills.history import History, operations, written
from tests.drills.scene import Scene
from tests.drills.verdict import Finding
from tests.support.standby import Standby

_LOAD_SECONDS = 6.0
_UNTIL_PROMOTED_SECONDS = 2.0
_MARGIN_SECONDS = 5.0
"""An hour for operators; a drill is shorter than that."""
MAX_PAUSE_SECONDS = 30.0

_ROWS = "SELECT org_id::text, event_id::text FROM analytics.usage_events"
_GAP = """
    SELECT extract(epoch FROM before)::float8, extract(epoch FROM committed_at)::float8
    FROM (SELECT committed_at, lag(committed_at) OVER (ORDER BY committed_at) AS before
          FROM analytics.ingestion_batches) AS batches
    ORDER BY committed_at - before DESC NULLS LAST LIMIT 1"""
"""The longest time without a commit: of what was committed within it nothing is left."""
_FIRST_COMMIT = """
    SELECT extract(epoch FROM min(committed_at))::float8 FROM analytics.ingestion_batches
    WHERE committed_at > to_timestamp({})"""


@dataclass(frozen=True)
class FailedOver:
    """What came of a failover. The pauses begin when the primary was killed.

    promoted: how long it took until the standby had become the primary. restarted: processes that had ended.
    lost: confirmed events that were gone; lost_outside: those that were not published in the time that
    docs/operations.md tells to send again. cancelled: how many waits for the standby were cancelled.
    vanished: how often an export job was not found.
    """

    promoted_seconds: float
    until_commit_seconds: float
    until_answer_seconds: float
    findings: list[Finding]
    confirmed: int
    exports: int
    restarted: list[str]
    lost: int = 0
    lost_outside: int = 0
    resent: int = 0
    cancelled: int = 0
    vanished: int = 0

    def __str__(self) -> str:
        wrong = "; ".join(str(each) for each in self.findings) or "all held"
        return (
            f"promoted after {self.promoted_seconds:.1f} s,"
            f" first commit after {self.until_commit_seconds:.1f} s,"
            f" first answer after {self.until_answer_seconds:.1f} s; {self.confirmed:,} events confirmed, "
            f"{self.lost:,} lost and {self.resent:,} sent again, {self.exports} exports,"
            f" {self.cancelled} waits cancelled; {wrong}"
        )


class TwoHostScene(Scene):
    """A scene whose processes know a primary and its standby. To PostgreSQL they go without a proxy."""

    def __init__(self, stack: LocalStack, standby: Standby, folder: Path, name: str) -> None:
        super().__init__(stack, folder, name)
        urls = {"DATABASE_URL": self.database_url, **stack.process_urls(self.database_url)}
        self.fleet.environ |= {key: standby.with_both_hosts(url) for key, url in urls.items()}
        self.database_url = standby.with_both_hosts(self.database_url)


def fail_over(
    stack: LocalStack,
    folder: Path,
    write_line: Callable[[str], None],
    *,
    synchronous: bool,
    cancel_waits: bool = False,
) -> FailedOver:
    """Lose the primary under load. stack: one of its own, whose drills' template is made.

    cancel_waits: cut a synchronous standby off before, and cancel each commit's wait for it.
    """
    standby = Standby(stack, synchronous=synchronous)
    history = History(folder / "history.jsonl")
    cancelled = 0
    with TwoHostScene(stack, standby, folder, "sync" if synchronous else "async") as scene:
        drill = Drill(scene, history, write_line)
        before = {slot: process.popen.pid for slot, process in scene.processes.items()}
        drill.load.start()
        try:
            time.sleep(_LOAD_SECONDS)
            if cancel_waits or not synchronous:
                standby.disconnect()
                until = time.monotonic() + _LOAD_SECONDS
                while time.monotonic() < until:
                    if cancel_waits:
                        cancelled += standby.cancel_waits()
                    time.sleep(0.1)
            scene.server("postgresql").kill()
            killed_at = time.time()
            time.sleep(_UNTIL_PROMOTED_SECONDS)
            standby.promote()
            promoted_seconds = time.time() - killed_at
            time.sleep(_LOAD_SECONDS)
            lost, outside, resent = (0, 0, 0) if synchronous else _send_again(scene, drill, history)
            drill.settle("the loss of the primary")
            with scene.observer() as observer:
                [(committed_at,)] = observer.rows(_FIRST_COMMIT.format(killed_at))
            answers = [
                end["utc"] - killed_at
                for begun, end in operations(history.records, "read")
                if begun["utc"] > killed_at and "usage?" in begun["path"]  # not from the cache
                if end is not None and end.get("status") == 200
            ]
            vanished = [
                begun["request_id"]
                for begun, end in operations(history.records, "read")
                if end is not None and end.get("status") == 404 and "/exports/" in begun["path"]
            ]
            return FailedOver(
                promoted_seconds,
                committed_at - killed_at,
                min(answers),
                drill.verdict.findings,
                drill.verdict.acknowledged,
                drill.verdict.exports,
                [slot for slot, pid in before.items() if scene.processes[slot].popen.pid != pid],
                lost,
                outside,
                resent,
                cancelled,
                len(vanished),
            )
        finally:
            drill.load.stop()
            history.close()


def _send_again(scene: Scene, drill: Drill, history: History) -> tuple[int, int, int]:
    """Do as docs/operations.md says after an asynchronous failover: all of that time is published again.

    Returns how many events were lost, how many of them lie outside of that time, how many were sent again.
    """
    drill.load.pause()
    deadline = time.monotonic() + MAX_PAUSE_SECONDS
    while (unready := scene.unready()) or _waits(scene):
        assert time.monotonic() < deadline, f"after the failover {unready} are not ready, or the queue waits"
        time.sleep(0.2)
    with scene.observer() as observer:
        kept = {(org_id, event_id) for org_id, event_id in observer.rows(_ROWS)}
        [(gap_from, gap_until)] = observer.rows(_GAP)
    lost: set[Key] = set()
    outside: set[Key] = set()
    again = {}
    for begun, end in operations(history.records, "publish"):
        inside = gap_from - _MARGIN_SECONDS <= begun["utc"] <= gap_until + _MARGIN_SECONDS
        for event in begun["events"]:
            key = (event[0], event[1])
            if inside:
                again[key] = event
            if end is not None and end["state"] == "ok" and key not in kept:
                lost.add(key)
                if not inside:
                    outside.add(key)
    events = [_as_published(event) for event in again.values()]
    number = history.invoke("publish", "operator", events=written(events), malformed=[])
    with Publisher(scene.rabbitmq_url, scene.exchange, confirm=True) as out:
        out.publish([encode(events[at : at + 100]) for at in range(0, len(events), 100)])
    history.end("publish", "ok", number)
    return len(lost), len(outside), len(events)


def _waits(scene: Scene) -> bool:
    """Whether messages are still to be counted."""
    with scene.observer() as observer:
        pending = "SELECT FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL"
        return bool(observer.queued() or observer.rows(pending))


def _as_published(event: list[Any]) -> Event:
    """Make an event of what a history has of it."""
    org_id, event_id, occurred_at, model_id, status, input_tokens, output_tokens, cost = event
    made: Event = {
        "eventId": event_id, "orgId": org_id, "occurredAt": occurred_at, "modelId": model_id,
        "actorId": "again", "clientId": "again", "latencyMs": 1,
        "inputTokens": input_tokens, "outputTokens": output_tokens, "status": status,
        "costEstimateCents": Decimal(cost), "metadata": {},
    }  # fmt: skip
    return made | {"errorCode": "AGAIN"} if status == "error" else made
