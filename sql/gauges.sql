-- name: pending
-- Committed batches that wait for their rollup, and when the oldest was committed.
SELECT count(*) AS batches, min(committed_at) AS oldest FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL;

-- name: first_recent_batch
-- The first batch committed since an instant; events of older batches arrived before it.
SELECT min(batch_id) AS batch_id FROM analytics.ingestion_batches WHERE committed_at >= %(since)s;

-- name: recent_latency
-- Events that occurred in [start, end) by organisation, model, failed or not, and latency bin.
SELECT org_id, model_id, status <> 'success' AS failed, analytics.latency_bin(latency_ms) AS bin, count(*) AS events
FROM analytics.usage_events
WHERE batch_id >= %(first_batch)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
GROUP BY 1, 2, 3, 4;

-- name: days_ahead
-- How many days after today have a partition; -1 with TimescaleDB, which needs none made.
SELECT CASE WHEN to_regclass('analytics.usage_events_default') IS NULL THEN -1 ELSE (
    SELECT count(*) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'analytics.usage_events'::regclass
      AND relname > 'usage_events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')
      AND relname ~ '^usage_events_\d{8}$')
END AS days;
