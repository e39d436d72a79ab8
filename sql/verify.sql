-- name: hold_days
-- Keeps days from being dropped until the end of the transaction. It takes no snapshot, so a transaction of
-- one snapshot that begins with it sees of each day either all of its events or that they were dropped.
LOCK TABLE analytics.dropped_days IN ACCESS SHARE MODE;

-- name: dropped_days
-- The days of a window of which raw events, or rollups, were dropped after their retention.
SELECT day, what FROM analytics.dropped_days WHERE day >= %(first_day)s AND day < %(end_day)s ORDER BY day, what;

-- name: has_lost_events
-- Whether an organisation has rollups of a UTC day and not one raw event.
SELECT EXISTS (
    SELECT FROM analytics.daily_rollups AS rollup
    WHERE bucket_start = %(day)s AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
      AND NOT EXISTS (SELECT FROM analytics.usage_events AS event
                      WHERE event.org_id = rollup.org_id
                        AND event.occurred_at >= %(day)s AND event.occurred_at < %(next_day)s)
    UNION ALL
    SELECT FROM analytics.hourly_rollups AS rollup
    WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
      AND NOT EXISTS (SELECT FROM analytics.usage_events AS event
                      WHERE event.org_id = rollup.org_id
                        AND event.occurred_at >= %(day)s AND event.occurred_at < %(next_day)s));

-- name: compare_hours
-- Hours of a UTC day whose rollup differs from the raw rows it should show, histogram included.
WITH raw_bins AS (
    SELECT org_id, model_id, date_trunc('hour', occurred_at, 'UTC') AS bucket_start,
           analytics.latency_bin(latency_ms) AS bin, count(*) AS invocations,
           count(*) FILTER (WHERE status = 'error') AS status_error,
           count(*) FILTER (WHERE status = 'timeout') AS status_timeout,
           count(*) FILTER (WHERE status = 'throttled') AS status_throttled,
           sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
           sum(cost_estimate_cents) AS cost_estimate_cents
    FROM analytics.usage_events
    WHERE occurred_at >= %(day)s AND occurred_at < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
      AND batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL)
    GROUP BY 1, 2, 3, 4
), raw AS (
    SELECT org_id, model_id, bucket_start, sum(invocations)::bigint AS invocations,
           sum(status_error)::bigint AS status_error, sum(status_timeout)::bigint AS status_timeout,
           sum(status_throttled)::bigint AS status_throttled, sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens, sum(cost_estimate_cents) AS cost_estimate_cents,
           array_agg(bin || ':' || invocations ORDER BY bin) AS histogram
    FROM raw_bins GROUP BY 1, 2, 3
), rolled AS (
    SELECT org_id, model_id, bucket_start, invocations, status_error, status_timeout, status_throttled,
           input_tokens, output_tokens, cost_estimate_cents,
           (SELECT array_agg(bin || ':' || events ORDER BY bin)
            FROM (SELECT bin, sum(events)::bigint AS events
                  FROM unnest(latency_bins, latency_counts) AS entry (bin, events) GROUP BY bin) AS folded) AS histogram
    FROM analytics.hourly_rollups
    WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
)
SELECT org_id, model_id, bucket_start,
       raw.invocations AS expected_invocations, rolled.invocations AS shown_invocations,
       raw.input_tokens AS expected_input_tokens, rolled.input_tokens AS shown_input_tokens,
       raw.output_tokens AS expected_output_tokens, rolled.output_tokens AS shown_output_tokens,
       raw.cost_estimate_cents AS expected_cost_estimate_cents, rolled.cost_estimate_cents AS shown_cost_estimate_cents,
       (raw.status_error, raw.status_timeout, raw.status_throttled)
           IS DISTINCT FROM (rolled.status_error, rolled.status_timeout, rolled.status_throttled) AS statuses_differ,
       raw.histogram IS DISTINCT FROM rolled.histogram AS latencies_differ
FROM raw FULL JOIN rolled USING (org_id, model_id, bucket_start)
WHERE (raw.invocations, raw.status_error, raw.status_timeout, raw.status_throttled, raw.input_tokens,
       raw.output_tokens, raw.cost_estimate_cents, raw.histogram)
      IS DISTINCT FROM
      (rolled.invocations, rolled.status_error, rolled.status_timeout, rolled.status_throttled,
       rolled.input_tokens, rolled.output_tokens, rolled.cost_estimate_cents, rolled.histogram)
ORDER BY org_id, bucket_start, model_id
LIMIT %(max_rows)s;

-- name: compare_days
-- Models whose daily rollup differs from the sum of its hours.
WITH hours AS (
    SELECT org_id, model_id, sum(invocations)::bigint AS invocations, sum(errors)::bigint AS errors,
           sum(status_error)::bigint AS status_error, sum(status_timeout)::bigint AS status_timeout,
           sum(status_throttled)::bigint AS status_throttled, sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens, sum(cost_estimate_cents) AS cost_estimate_cents
    FROM analytics.hourly_rollups
    WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
    GROUP BY 1, 2
), hour_bins AS (
    SELECT org_id, model_id, array_agg(bin || ':' || events ORDER BY bin) AS histogram
    FROM (SELECT org_id, model_id, bin, sum(events)::bigint AS events
          FROM analytics.hourly_rollups, unnest(latency_bins, latency_counts) AS entry (bin, events)
          WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
            AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
          GROUP BY 1, 2, 3) AS folded
    GROUP BY 1, 2
), days AS (
    SELECT org_id, model_id, invocations, errors, status_error, status_timeout, status_throttled,
           input_tokens, output_tokens, cost_estimate_cents,
           (SELECT array_agg(bin || ':' || events ORDER BY bin)
            FROM (SELECT bin, sum(events)::bigint AS events
                  FROM unnest(latency_bins, latency_counts) AS entry (bin, events) GROUP BY bin) AS folded) AS histogram
    FROM analytics.daily_rollups
    WHERE bucket_start = %(day)s AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
)
SELECT org_id, model_id, %(day)s::timestamptz AS bucket_start,
       hours.invocations AS expected_invocations, days.invocations AS shown_invocations,
       hours.input_tokens AS expected_input_tokens, days.input_tokens AS shown_input_tokens,
       hours.output_tokens AS expected_output_tokens, days.output_tokens AS shown_output_tokens,
       hours.cost_estimate_cents AS expected_cost_estimate_cents, days.cost_estimate_cents AS shown_cost_estimate_cents,
       (hours.status_error, hours.status_timeout, hours.status_throttled)
           IS DISTINCT FROM (days.status_error, days.status_timeout, days.status_throttled) AS statuses_differ,
       hour_bins.histogram IS DISTINCT FROM days.histogram AS latencies_differ
FROM hours JOIN hour_bins USING (org_id, model_id) FULL JOIN days USING (org_id, model_id)
WHERE (hours.invocations, hours.status_error, hours.status_timeout, hours.status_throttled,
       hours.input_tokens, hours.output_tokens, hours.cost_estimate_cents, hour_bins.histogram)
      IS DISTINCT FROM
      (days.invocations, days.status_error, days.status_timeout, days.status_throttled,
       days.input_tokens, days.output_tokens, days.cost_estimate_cents, days.histogram)
ORDER BY org_id, model_id
LIMIT %(max_rows)s;

-- name: compare_error_codes
-- Error codes of a UTC day whose count by hour, or by day, differs from the raw rows'.
WITH raw AS (
    SELECT org_id, model_id, error_code, date_trunc('hour', occurred_at, 'UTC') AS bucket_start, count(*) AS events
    FROM analytics.usage_events
    WHERE occurred_at >= %(day)s AND occurred_at < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
      AND status <> 'success' AND error_code IS NOT NULL
      AND batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL)
    GROUP BY 1, 2, 3, 4
), hours AS (
    SELECT org_id, model_id, error_code, bucket_start, events FROM analytics.hourly_error_codes
    WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
), raw_day AS (
    SELECT org_id, model_id, error_code, sum(events)::bigint AS events FROM raw GROUP BY 1, 2, 3
), days AS (
    SELECT org_id, model_id, error_code, events FROM analytics.daily_error_codes
    WHERE bucket_start = %(day)s AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
)
SELECT org_id, model_id, bucket_start, 'hour' AS grain, error_code, raw.events AS expected, hours.events AS shown
FROM raw FULL JOIN hours USING (org_id, model_id, error_code, bucket_start)
WHERE raw.events IS DISTINCT FROM hours.events
UNION ALL
SELECT org_id, model_id, %(day)s::timestamptz, 'day', error_code, raw_day.events, days.events
FROM raw_day FULL JOIN days USING (org_id, model_id, error_code)
WHERE raw_day.events IS DISTINCT FROM days.events
LIMIT %(max_rows)s;

-- name: count_compared
-- How many hourly and daily rollups and how many events a UTC day's comparison covered.
SELECT (SELECT count(*) FROM analytics.hourly_rollups
        WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
          AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)) AS hours,
       count(*) AS days, coalesce(sum(invocations), 0)::bigint AS events
FROM analytics.daily_rollups
WHERE bucket_start = %(day)s AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid);
