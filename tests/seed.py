"""Puts batches of events straight into the database, as the ingestor would have committed them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg2
from psycopg2.extensions import connection
from psycopg2.extras import execute_values

from tests.traffic import Event


def connect(owner_url: str) -> connection:
    """Open a connection in autocommit."""
    opened = psycopg2.connect(owner_url, options="-c timezone=UTC")
    opened.autocommit = True
    return opened


def insert_batch(owner: connection, events: Sequence[Event], received_at: datetime | None = None) -> int:
    """Insert a batch and its events; return the batch's id. It is part of the caller's transaction."""
    times = [event["occurredAt"] for event in events]
    with owner.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.ingestion_batches (ingestor, received, inserted, dedupe_conflicts, content_conflicts,"
            " late_arrival, oldest_occurred_at, newest_occurred_at, received_at)"
            " VALUES ('test', %s, %s, 0, 0, 0, %s::timestamptz, %s::timestamptz, %s) RETURNING batch_id",
            (
                len(events),
                len(events),
                min(times, default=None),
                max(times, default=None),
                received_at or datetime.now(UTC),
            ),
        )
        row = cur.fetchone()
        assert row is not None
        batch_id = int(row[0])
        execute_values(
            cur,
            "INSERT INTO analytics.usage_events (org_id, occurred_at, event_id, batch_id, received_at, model_id, status,"
            " latency_ms, input_tokens, output_tokens, cost_estimate_cents, error_code, metadata) VALUES %s",
            [
                (
                    event["orgId"], event["occurredAt"], event["eventId"], batch_id, received_at or datetime.now(UTC),
                    event["modelId"], event["status"], event["latencyMs"], event["inputTokens"], event["outputTokens"],
                    event["costEstimateCents"], event.get("errorCode"), json.dumps(event.get("metadata", {})),
                )
                for event in events
            ],
            page_size=1000,
        )  # fmt: skip
    return batch_id
