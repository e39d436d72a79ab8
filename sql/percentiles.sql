-- name: try_lock
-- True for the one worker that keeps percentiles; released at the end of the transaction.
SELECT pg_try_advisory_xact_lock(hashtext('analytics.percentiles'));

-- name: over_since
-- The first hour that is not over, some minutes' grace included; a day is over with its last hour.
SELECT date_trunc('hour', now() - interval '10 minutes', 'UTC');

-- name: orgs_to_keep
-- Organisations that have such buckets; see keep.
SELECT DISTINCT rollup.org_id::text
FROM analytics.model_freshness AS model
JOIN analytics.{table} AS rollup
    ON rollup.org_id = model.org_id AND rollup.bucket_start >= %(low)s AND rollup.bucket_start < %(high)s
WHERE model.last_event_at >= %(low)s AND rollup.percentiles_of IS DISTINCT FROM rollup.invocations;

-- name: keep
-- Keeps the percentiles of some buckets in [low, high) of a part that lack them, or that events were added to since,
-- of all organisations (NULL) or of one. A bucket that is being added to is left for the next time, so that this waits
-- for nobody. Organisations are taken from model_freshness, since a bucket is found by its organisation.
WITH changed AS (
    SELECT rollup.org_id, rollup.bucket_start, rollup.model_id, rollup.value
    FROM (SELECT DISTINCT org_id FROM analytics.model_freshness
          WHERE last_event_at >= %(low)s AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)) AS active
    JOIN analytics.{table} AS rollup
        ON rollup.org_id = active.org_id AND rollup.bucket_start >= %(low)s AND rollup.bucket_start < %(high)s
    WHERE rollup.percentiles_of IS DISTINCT FROM rollup.invocations
      AND (%(org_id)s::uuid IS NULL OR rollup.org_id = %(org_id)s::uuid)
    LIMIT %(max_rows)s
    FOR NO KEY UPDATE OF rollup SKIP LOCKED
)
UPDATE analytics.{table} AS rollup
SET percentiles = analytics.percentiles_ms(latency_bins, latency_counts)
                  || analytics.percentiles_ms(first_token_bins, first_token_counts),
    percentiles_of = invocations
FROM changed
WHERE (%(org_id)s::uuid IS NULL OR rollup.org_id = %(org_id)s::uuid)
  AND rollup.org_id = changed.org_id AND rollup.bucket_start = changed.bucket_start
  AND rollup.model_id = changed.model_id AND rollup.value = changed.value;
