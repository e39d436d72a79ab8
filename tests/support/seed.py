"""Puts batches of events into the database as the ingestor would have committed them, and reads rows."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import psycopg2
from psycopg2.extensions import connection, cursor
from psycopg2.extras import execute_values

from deploy.local.traffic import Event


def connect(url: str) -> connection:
    """Open a connection in autocommit, in UTC, which a pooler of transactions keeps too."""
    opened = psycopg2.connect(url)
    opened.autocommit = True
    with opened.cursor() as cur:
        cur.execute("SET timezone = 'UTC'")
    return opened


def rows(owner: connection, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Return what a statement says."""
    with owner.cursor() as cur:
        cur.execute(sql, parameters)
        return list(cur.fetchall())


def insert_batch(owner: connection, events: Sequence[Event], received_at: datetime | None = None) -> int:
    """Insert a batch and its events; return the batch's id.

    In a transaction of its own on a connection in autocommit, else as part of the caller's.
    """
    with owner if owner.autocommit else nullcontext(), owner.cursor() as cur:
        return _insert(cur, events, received_at or datetime.now(UTC))


_INSERT_BATCH = """
    INSERT INTO analytics.ingestion_batches (ingestor, received, inserted, dedupe_conflicts,
        content_conflicts, late_arrival, oldest_occurred_at, newest_occurred_at, received_at)
    VALUES ('test', %(count)s, %(count)s, 0, 0, 0,
        %(oldest)s::timestamptz, %(newest)s::timestamptz, %(received_at)s)
    RETURNING batch_id"""
_INSERT_EVENTS = """
    INSERT INTO analytics.usage_events (org_id, occurred_at, event_id, batch_id, received_at, model_id,
        status, latency_ms, input_tokens, output_tokens, cost_estimate_cents, error_code, metadata{optional})
    VALUES %s"""
# Named only where an event has them, so that a database of the release before takes the others.
_OPTIONAL = {
    "clientId": "client_id",
    "actorId": "actor_id",
    "apiKeyId": "api_key_id",
    "provider": "provider",
    "operation": "operation",
    "cachedInputTokens": "cached_input_tokens",
    "cacheWriteInputTokens": "cache_write_input_tokens",
    "reasoningTokens": "reasoning_tokens",
    "timeToFirstTokenMs": "time_to_first_token_ms",
}


def _insert(cur: cursor, events: Sequence[Event], received_at: datetime) -> int:
    times = [event["occurredAt"] for event in events]
    bounds = {"oldest": min(times, default=None), "newest": max(times, default=None)}
    cur.execute(_INSERT_BATCH, {"count": len(events), "received_at": received_at, **bounds})
    row = cur.fetchone()
    assert row is not None
    batch_id = int(row[0])
    named = [name for name in _OPTIONAL if any(name in event for event in events)]
    fields = ("modelId", "status", "latencyMs", "inputTokens", "outputTokens", "costEstimateCents")
    rows = [
        (
            event["orgId"],
            event["occurredAt"],
            event["eventId"],
            batch_id,
            received_at,
            *(event[name] for name in fields),
            event.get("errorCode"),
            json.dumps(event.get("metadata") or {}),
            *(event.get(name) for name in named),
        )
        for event in events
    ]
    statement = _INSERT_EVENTS.format(optional="".join(f", {_OPTIONAL[name]}" for name in named))
    execute_values(cur, statement, rows, page_size=1000)
    return batch_id
