-- name: create_incoming
-- Where a batch lands before it is judged: one table a session, emptied by every commit.
CREATE TEMP TABLE incoming_events (
    event_id            uuid           NOT NULL,
    org_id              uuid           NOT NULL,
    occurred_at         timestamptz    NOT NULL,
    model_id            text           NOT NULL,
    status              text           NOT NULL,
    latency_ms          integer        NOT NULL,
    input_tokens        bigint         NOT NULL,
    output_tokens       bigint         NOT NULL,
    cost_estimate_cents numeric(24,10) NOT NULL,
    actor_id            text,
    client_id           text,
    error_code          text,
    metadata            jsonb          NOT NULL,
    content_digest      bigint         NOT NULL
) ON COMMIT DELETE ROWS;

-- name: copy_incoming
-- The batch on its way in; the columns are those of shared.events.COPY_COLUMNS.
COPY incoming_events (event_id, org_id, occurred_at, model_id, status, latency_ms, input_tokens, output_tokens,
    cost_estimate_cents, actor_id, client_id, error_code, metadata, content_digest) FROM STDIN;

-- name: store
-- Stores a batch: dedupe keys, the new rows, and the batch's record, all or nothing.
-- check_rows: also look for the rows themselves, for events resent after their keys were pruned.
-- hidden: duplicates whose keys were committed by someone else after this statement began, so that
-- their content could not be compared; the caller rolls back and asks again.
WITH new_keys AS (
    -- In key order, so that two ingestors with the same events wait for each other and never deadlock.
    INSERT INTO analytics.event_keys (event_id, org_id, content_digest, first_received_at)
    SELECT event_id, org_id, content_digest, %(received_at)s
    FROM incoming_events
    ORDER BY event_id, org_id
    ON CONFLICT DO NOTHING
    RETURNING event_id, org_id
), fresh AS (
    SELECT i.*
    FROM incoming_events i
    JOIN new_keys USING (event_id, org_id)
    WHERE NOT (%(check_rows)s AND EXISTS (
        SELECT FROM analytics.usage_events e
        WHERE e.org_id = i.org_id AND e.occurred_at = i.occurred_at AND e.event_id = i.event_id))
), duplicates AS (
    SELECT count(*) AS events,
           count(k.event_id) AS seen,
           count(*) FILTER (WHERE k.content_digest <> i.content_digest) AS differing
    FROM incoming_events i
    LEFT JOIN analytics.event_keys k USING (event_id, org_id)
    WHERE (SELECT count(*) FROM new_keys) < %(rows)s  -- most batches bring none, and need not look
      AND NOT EXISTS (SELECT FROM new_keys n WHERE n.event_id = i.event_id AND n.org_id = i.org_id)
), batch AS (
    INSERT INTO analytics.ingestion_batches (
        ingestor, received, inserted, dedupe_conflicts, content_conflicts, late_arrival,
        oldest_occurred_at, newest_occurred_at, received_at)
    SELECT %(ingestor)s, %(received)s, f.inserted, %(received)s - f.inserted,
           d.differing + %(content_conflicts)s, f.late, f.oldest, f.newest, %(received_at)s
    FROM (SELECT count(*) AS inserted,
                 count(*) FILTER (WHERE occurred_at < now() - interval '1 hour') AS late,
                 min(occurred_at) AS oldest,
                 max(occurred_at) AS newest
          FROM fresh) f, duplicates d
    RETURNING batch_id, inserted, content_conflicts, late_arrival
), stored AS (
    INSERT INTO analytics.usage_events (
        org_id, occurred_at, event_id, batch_id, received_at, model_id, status, latency_ms,
        input_tokens, output_tokens, cost_estimate_cents, actor_id, client_id, error_code, metadata)
    SELECT f.org_id, f.occurred_at, f.event_id, b.batch_id, %(received_at)s, f.model_id, f.status, f.latency_ms,
           f.input_tokens, f.output_tokens, f.cost_estimate_cents, f.actor_id, f.client_id, f.error_code, f.metadata
    FROM fresh f, batch b
)
SELECT b.batch_id, b.inserted, b.content_conflicts, b.late_arrival, d.events - d.seen AS hidden
FROM batch b, duplicates d;

-- name: newest_batch
-- Where the search for this ingestor's batches begins; asked once, before its first batch.
SELECT coalesce(max(batch_id), 0) FROM analytics.ingestion_batches;

-- name: find_committed
-- The record of a batch whose commit went unanswered, if it was committed; nobody else writes this ingestor's name.
SELECT batch_id, inserted, content_conflicts, late_arrival
FROM analytics.ingestion_batches
WHERE batch_id > %(after_batch_id)s AND ingestor = %(ingestor)s
  AND received_at = %(received_at)s AND received = %(received)s;
