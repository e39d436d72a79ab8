"""Adding batches to the rollups: claim, gather, add, mark, in one transaction.

Counts, tokens, cost and latency bins are sums, so a batch is added once and never looked at again.
The mark is set in the transaction that adds, so a kill at any point leaves the batch either shown
or waiting. Any number of workers may run: each claims batches that no other holds.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from rollup_worker.dimensions import fields_needed, list_dimensions
from rollup_worker.parts import Shares, add_gathered, create_tables
from rollup_worker.spread import gather
from shared.buckets import bucket_start
from shared.clock import Clock, utc_now
from shared.errors import DatabaseUnavailable
from shared.metrics import RollupMetrics
from shared.postgres import Cursor, Database, fetch_rows
from shared.statements import load_statements

MAX_BATCHES = 32
"""Most batches of one transaction: enough to spread the cost of a bucket's row over many events, few enough
to be done within a second."""

MANY_BATCHES = MAX_BATCHES // 2
"""Batches of one transaction from which on they come faster than one connection adds them."""

_MIN_EVENTS_TO_ANALYZE = 5_000

_SQL = load_statements("rollups.sql")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("rollups")


@dataclass(frozen=True)
class Claim:
    """Batches claimed by one transaction, with the bounds of their events' occurred_at."""

    batch_ids: list[int]
    events: int
    oldest: datetime | None
    newest: datetime | None
    committed_at: list[datetime]
    correlation_ids: list[str]


class Rollups:
    """Adds waiting batches to the rollups. For one thread.

    shares: what several of them know together. min_batches: with fewer to be claimed, none is.
    """

    def __init__(
        self,
        database: Database,
        metrics: RollupMetrics,
        clock: Clock = utc_now,
        *,
        shares: Shares | None = None,
        min_batches: int = 1,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._max_batches = MAX_BATCHES
        self._min_batches = min_batches
        self._shares = shares or Shares()
        self.more_wait = False
        """Whether the last claim took as many as it may."""

    def add_waiting(self) -> int:
        """Add the oldest waiting batches in one transaction; return how many, 0 when none wait.

        Raises DatabaseUnavailable; then the same batches wait on, and the next claim takes half as many: what
        took too long at once may be done in parts. Each success lets the claims grow by one again.
        """
        began = time.monotonic()
        try:
            with self._database.transaction() as cur:
                cur.execute(_SQL["share_rollups"])
                claim = _claim(cur, self._min_batches, self._max_batches)
                if claim is not None:
                    self._add(cur, claim)
        except DatabaseUnavailable:
            self._max_batches = max(1, self._max_batches // 2)
            raise
        self.more_wait = claim is not None and len(claim.batch_ids) >= self._max_batches
        self._max_batches = min(MAX_BATCHES, self._max_batches + 1)
        if claim is None:
            self._metrics.last_success.set(self._clock().timestamp())
            return 0
        self._count(claim, time.monotonic() - began)
        return len(claim.batch_ids)

    def _add(self, cur: Cursor, claim: Claim) -> None:
        """Add the claimed batches. Tables in one order and keys in order, so workers never deadlock."""
        parameters: dict[str, object] = {
            "batch_ids": claim.batch_ids,
            "oldest": claim.oldest,
            "newest": claim.newest,
        }
        if claim.oldest:
            dimensions = list_dimensions(cur)
            create_tables(cur)
            gather(cur, _SQL["gather_batches"], parameters | fields_needed(dimensions), claim.events)
            self._analyze(cur, claim.events)
            add_gathered(
                cur,
                dimensions,
                events=claim.events,
                oldest=bucket_start(claim.oldest, "hour"),
                shares=self._shares,
            )
            cur.execute(_SQL["note_freshness"])
        cur.execute(_SQL["mark_batches"], parameters)

    @staticmethod
    def _analyze(cur: Cursor, events: int) -> None:
        """Show the planner a large claim."""
        if events >= _MIN_EVENTS_TO_ANALYZE:
            cur.execute(_SQL["set_statistics_target"])
            cur.execute(_SQL["analyze_gathered"])

    def _count(self, claim: Claim, seconds: float) -> None:
        now = self._clock()
        self._metrics.last_success.set(now.timestamp())
        self._metrics.events.inc(claim.events)
        self._metrics.batches.inc(len(claim.batch_ids))
        self._metrics.seconds.observe(seconds)
        for committed_at in claim.committed_at:
            self._metrics.commit_to_rollup_seconds.observe(max(0.0, (now - committed_at).total_seconds()))
        _log.info(
            "batches rolled up",
            batch_ids=claim.batch_ids,
            correlation_ids=claim.correlation_ids,
            events=claim.events,
            seconds=round(seconds, 4),
        )


def _claim(cur: Cursor, min_batches: int, max_batches: int) -> Claim | None:
    rows = fetch_rows(cur, _SQL["claim_batches"], {"max_batches": max_batches})
    if len(rows) < min_batches:
        return None
    stored = [row for row in rows if row["inserted"] > 0]
    return Claim(
        batch_ids=[row["batch_id"] for row in rows],
        events=sum(row["inserted"] for row in stored),
        oldest=min((row["oldest_occurred_at"] for row in stored), default=None),
        newest=max((row["newest_occurred_at"] for row in stored), default=None),
        committed_at=[row["committed_at"].astimezone(UTC) for row in rows],
        correlation_ids=[row["correlation_id"] for row in rows],
    )
