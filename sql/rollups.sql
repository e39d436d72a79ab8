-- name: share_rollups
-- Held by every rollup until its end, so that a rebuild (lock_rollups) meets none half done.
SELECT pg_advisory_xact_lock_shared(hashtext('analytics.rollups'));

-- name: lock_rollups
-- Waits for rollups under way and keeps new ones out until the end of the transaction.
SELECT pg_advisory_xact_lock(hashtext('analytics.rollups'));

-- name: claim_batches
-- The oldest batches that no other worker is adding right now.
SELECT batch_id, inserted, oldest_occurred_at, newest_occurred_at, committed_at, correlation_id
FROM analytics.ingestion_batches
WHERE rolled_up_at IS NULL
ORDER BY batch_id
LIMIT %(max_batches)s
FOR UPDATE SKIP LOCKED;

-- name: create_contributions
-- Where a transaction gathers what its events add, by hour, model and latency bin. Empty at each commit.
CREATE TEMPORARY TABLE IF NOT EXISTS contributions (
    org_id uuid, model_id text COLLATE "C", hour timestamptz, latency_bin smallint,
    invocations bigint, status_error bigint, status_timeout bigint, status_throttled bigint,
    input_tokens numeric, output_tokens numeric, cost_estimate_cents numeric, newest timestamptz
) ON COMMIT DELETE ROWS;

-- name: contributions_of_batches
-- What the events of some batches add. The bounds let the planner open only the days they touch.
INSERT INTO contributions
SELECT org_id, model_id, date_trunc('hour', occurred_at, 'UTC'), analytics.latency_bin(latency_ms),
       count(*), count(*) FILTER (WHERE status = 'error'), count(*) FILTER (WHERE status = 'timeout'),
       count(*) FILTER (WHERE status = 'throttled'),
       sum(input_tokens), sum(output_tokens), sum(cost_estimate_cents), max(occurred_at)
FROM analytics.usage_events
WHERE batch_id = ANY(%(batch_ids)s)
  AND occurred_at BETWEEN %(oldest)s AND %(newest)s
GROUP BY 1, 2, 3, 4;

-- name: contributions_of_day
-- What the events of a UTC day add that the rollups already show (batches that wait are added later).
INSERT INTO contributions
SELECT org_id, model_id, date_trunc('hour', occurred_at, 'UTC'), analytics.latency_bin(latency_ms),
       count(*), count(*) FILTER (WHERE status = 'error'), count(*) FILTER (WHERE status = 'timeout'),
       count(*) FILTER (WHERE status = 'throttled'),
       sum(input_tokens), sum(output_tokens), sum(cost_estimate_cents), max(occurred_at)
FROM analytics.usage_events
WHERE occurred_at >= %(day)s AND occurred_at < %(next_day)s
  AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
  AND batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL)
GROUP BY 1, 2, 3, 4;

-- name: add_hourly
-- Adds the contributions to their hours, in key order so that two workers never wait for each other.
INSERT INTO analytics.hourly_rollups AS rollup (
    org_id, bucket_start, model_id, invocations, errors, status_error, status_timeout, status_throttled,
    input_tokens, output_tokens, cost_estimate_cents, latency_bins, latency_counts)
SELECT org_id, hour, model_id, sum(invocations)::bigint,
       sum(status_error + status_timeout + status_throttled)::bigint,
       sum(status_error)::bigint, sum(status_timeout)::bigint, sum(status_throttled)::bigint,
       sum(input_tokens), sum(output_tokens), sum(cost_estimate_cents),
       array_agg(latency_bin), array_agg(invocations)
FROM contributions
GROUP BY org_id, hour, model_id
ORDER BY org_id, hour, model_id
ON CONFLICT (org_id, bucket_start, model_id) DO UPDATE SET
    invocations = rollup.invocations + excluded.invocations,
    errors = rollup.errors + excluded.errors,
    status_error = rollup.status_error + excluded.status_error,
    status_timeout = rollup.status_timeout + excluded.status_timeout,
    status_throttled = rollup.status_throttled + excluded.status_throttled,
    input_tokens = rollup.input_tokens + excluded.input_tokens,
    output_tokens = rollup.output_tokens + excluded.output_tokens,
    cost_estimate_cents = rollup.cost_estimate_cents + excluded.cost_estimate_cents,
    (latency_bins, latency_counts) = (
        SELECT added.latency_bins, added.latency_counts
        FROM analytics.latency_append(rollup.latency_bins, rollup.latency_counts,
                                      excluded.latency_bins, excluded.latency_counts) AS added);

-- name: add_daily
-- Adds the contributions to their UTC days, as add_hourly does to hours.
INSERT INTO analytics.daily_rollups AS rollup (
    org_id, bucket_start, model_id, invocations, errors, status_error, status_timeout, status_throttled,
    input_tokens, output_tokens, cost_estimate_cents, latency_bins, latency_counts)
SELECT org_id, date_trunc('day', hour, 'UTC') AS day, model_id, sum(invocations)::bigint,
       sum(status_error + status_timeout + status_throttled)::bigint,
       sum(status_error)::bigint, sum(status_timeout)::bigint, sum(status_throttled)::bigint,
       sum(input_tokens), sum(output_tokens), sum(cost_estimate_cents),
       array_agg(latency_bin), array_agg(invocations)
FROM contributions
GROUP BY org_id, day, model_id
ORDER BY org_id, day, model_id
ON CONFLICT (org_id, bucket_start, model_id) DO UPDATE SET
    invocations = rollup.invocations + excluded.invocations,
    errors = rollup.errors + excluded.errors,
    status_error = rollup.status_error + excluded.status_error,
    status_timeout = rollup.status_timeout + excluded.status_timeout,
    status_throttled = rollup.status_throttled + excluded.status_throttled,
    input_tokens = rollup.input_tokens + excluded.input_tokens,
    output_tokens = rollup.output_tokens + excluded.output_tokens,
    cost_estimate_cents = rollup.cost_estimate_cents + excluded.cost_estimate_cents,
    (latency_bins, latency_counts) = (
        SELECT added.latency_bins, added.latency_counts
        FROM analytics.latency_append(rollup.latency_bins, rollup.latency_counts,
                                      excluded.latency_bins, excluded.latency_counts) AS added);

-- name: add_error_codes_of_batches
-- Adds the batches' error codes to hours and, from those, to days.
WITH failed AS MATERIALIZED (
    SELECT org_id, date_trunc('hour', occurred_at, 'UTC') AS hour, model_id, error_code, count(*) AS events
    FROM analytics.usage_events
    WHERE batch_id = ANY(%(batch_ids)s)
      AND occurred_at BETWEEN %(oldest)s AND %(newest)s
      AND status <> 'success' AND error_code IS NOT NULL
    GROUP BY 1, 2, 3, 4
), hourly AS (
    INSERT INTO analytics.hourly_error_codes AS known (org_id, bucket_start, model_id, error_code, events)
    SELECT org_id, hour, model_id, error_code, events FROM failed
    ORDER BY org_id, hour, model_id, error_code
    ON CONFLICT (org_id, bucket_start, model_id, error_code) DO UPDATE SET events = known.events + excluded.events
)
INSERT INTO analytics.daily_error_codes AS known (org_id, bucket_start, model_id, error_code, events)
SELECT org_id, date_trunc('day', hour, 'UTC') AS day, model_id, error_code, sum(events)::bigint FROM failed
GROUP BY org_id, day, model_id, error_code
ORDER BY org_id, day, model_id, error_code
ON CONFLICT (org_id, bucket_start, model_id, error_code) DO UPDATE SET events = known.events + excluded.events;

-- name: note_freshness
-- Notes the newest event that the rollups now show, by model.
INSERT INTO analytics.model_freshness AS known (org_id, model_id, last_event_at, last_rollup_at)
SELECT org_id, model_id, max(newest), clock_timestamp() FROM contributions
GROUP BY org_id, model_id
ORDER BY org_id, model_id
ON CONFLICT (org_id, model_id) DO UPDATE SET
    last_event_at = greatest(known.last_event_at, excluded.last_event_at),
    last_rollup_at = greatest(known.last_rollup_at, excluded.last_rollup_at);

-- name: mark_batches
-- The batches are shown; in the transaction that added them.
UPDATE analytics.ingestion_batches SET rolled_up_at = clock_timestamp() WHERE batch_id = ANY(%(batch_ids)s);

-- name: clear_day
-- Removes a UTC day's rollups and error codes, before they are made again from raw rows.
WITH hours AS (
    DELETE FROM analytics.hourly_rollups WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
), days AS (
    DELETE FROM analytics.daily_rollups WHERE bucket_start = %(day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
), hour_codes AS (
    DELETE FROM analytics.hourly_error_codes WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
)
DELETE FROM analytics.daily_error_codes WHERE bucket_start = %(day)s
  AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid);

-- name: remake_error_codes_of_day
-- Makes a cleared UTC day's error codes again from the raw rows that the rollups show.
WITH failed AS MATERIALIZED (
    SELECT org_id, date_trunc('hour', occurred_at, 'UTC') AS hour, model_id, error_code, count(*) AS events
    FROM analytics.usage_events
    WHERE occurred_at >= %(day)s AND occurred_at < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
      AND status <> 'success' AND error_code IS NOT NULL
      AND batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL)
    GROUP BY 1, 2, 3, 4
), hourly AS (
    INSERT INTO analytics.hourly_error_codes (org_id, bucket_start, model_id, error_code, events)
    SELECT org_id, hour, model_id, error_code, events FROM failed
)
INSERT INTO analytics.daily_error_codes (org_id, bucket_start, model_id, error_code, events)
SELECT org_id, %(day)s, model_id, error_code, sum(events)::bigint FROM failed
GROUP BY org_id, model_id, error_code;
