-- name: announce
-- Says that the closed parts were looked into: for whoever does not say so, a trigger does.
SET LOCAL analytics.asks_closed_parts = 'on';

-- name: copy_keys
-- Claims a batch's dedupe keys. The primary key refuses them all if one is known already, or becomes so while
-- this waits for another ingestor. In key order, so that ingestors wait for each other and never deadlock.
COPY analytics.event_keys (event_id, org_id, content_digest, first_received_at) FROM STDIN (FORMAT binary);

-- name: find_known
-- Those of a batch's keys that the open part has, with the digest of the first event under each. LATERAL with LIMIT
-- makes it a look into the primary key for each, whatever the planner believes of the table.
SELECT known.event_id::text, known.org_id::text, known.content_digest
FROM unnest(%(event_ids)s::uuid[], %(org_ids)s::uuid[]) AS given (event_id, org_id)
CROSS JOIN LATERAL (
    SELECT event_id, org_id, content_digest FROM ONLY analytics.event_keys AS key
    WHERE key.event_id = given.event_id AND key.org_id = given.org_id
    LIMIT 1
) AS known;

-- name: find_stored
-- Those of a batch's events whose rows are stored: sent again after their keys were pruned. Each with what its
-- content digest is made of: the columns of shared.usage_event.schema.COPY_COLUMNS as decode.stored_digest takes them.
SELECT event_id::text, org_id::text, to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    model_id, status, latency_ms::text, input_tokens::text, output_tokens::text,
    trim_scale(cost_estimate_cents)::text, actor_id, client_id, error_code, metadata::text,
    provider, operation, api_key_id, cached_input_tokens::text, cache_write_input_tokens::text,
    reasoning_tokens::text, time_to_first_token_ms::text
FROM unnest(%(event_ids)s::uuid[], %(org_ids)s::uuid[], %(times)s::timestamptz[])
    AS given (event_id, org_id, occurred_at)
JOIN analytics.usage_events USING (org_id, occurred_at, event_id);

-- name: record_batch
-- The batch's record, in the transaction that stores its events. Returns the closed parts too, as they will be
-- until its end: keys are being copied, so the open part cannot be closed.
INSERT INTO analytics.ingestion_batches (
    ingestor, correlation_id, received, inserted, dedupe_conflicts, content_conflicts, late_arrival,
    oldest_occurred_at, newest_occurred_at, received_at)
VALUES (%(ingestor)s, %(correlation_id)s, %(received)s, %(inserted)s, %(received)s - %(inserted)s,
        %(content_conflicts)s, %(late)s, %(oldest)s, %(newest)s, %(received_at)s)
RETURNING batch_id, ARRAY(SELECT part FROM analytics.key_parts WHERE merges IS NULL ORDER BY part);

-- name: copy_events
-- The batch's new events; the first columns are those of shared.usage_event.schema.COPY_COLUMNS.
COPY analytics.usage_events (event_id, org_id, occurred_at, model_id, status, latency_ms, input_tokens,
    output_tokens, cost_estimate_cents, actor_id, client_id, error_code, metadata, provider, operation,
    api_key_id, cached_input_tokens, cache_write_input_tokens, reasoning_tokens, time_to_first_token_ms,
    batch_id, received_at)
FROM STDIN;

-- name: newest_batch
-- Where the search for an unanswered batch begins; asked while no batch is in flight.
SELECT coalesce(max(batch_id), 0) FROM analytics.ingestion_batches;

-- name: find_committed
-- The record of a batch whose commit went unanswered, if it was committed.
SELECT batch_id, inserted, content_conflicts, late_arrival
FROM analytics.ingestion_batches
WHERE batch_id > %(after_batch_id)s AND ingestor = %(ingestor)s AND correlation_id = %(correlation_id)s
  AND received_at = %(received_at)s AND received = %(received)s;

-- name: wait_replicated
-- Lets this commit wait for a synchronous standby as if it had written, and so for all that was committed before: a
-- commit whose own wait was cut off is seen after a restart though the standby may not have it.
SELECT pg_logical_emit_message(true, 'analytics', '');
