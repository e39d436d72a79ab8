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
    SELECT 1 FROM analytics.daily_rollups AS rollup
    WHERE bucket_start = %(day)s AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
      AND NOT EXISTS (SELECT 1 FROM analytics.usage_events AS event
                      WHERE event.org_id = rollup.org_id
                        AND event.occurred_at >= %(day)s AND event.occurred_at < %(next_day)s)
    UNION ALL
    SELECT 1 FROM analytics.hourly_rollups AS rollup
    WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
      AND NOT EXISTS (SELECT 1 FROM analytics.usage_events AS event
                      WHERE event.org_id = rollup.org_id
                        AND event.occurred_at >= %(day)s AND event.occurred_at < %(next_day)s));

-- name: shown
-- Which batches the rollups show, of which alone raw events are compared with them or made into them: those up to the
-- last but some, in one snapshot, or while rollups are kept out. Not shown are those that wait, and those that have a
-- number and are not there: on a Citus cluster their events may be seen before the statement that reads them ends. Older
-- ones than ten minutes were never committed; so many numbers are not given in that time.
SELECT last_batch, ARRAY(
           SELECT batch_id FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL
           UNION ALL
           SELECT batch_id FROM generate_series(
               greatest(0, last_batch - 100000, (SELECT max(batch_id) FROM analytics.ingestion_batches
                                              WHERE committed_at < now() - interval '10 minutes')) + 1, last_batch)
               AS given (batch_id)
           WHERE NOT EXISTS (SELECT FROM analytics.ingestion_batches AS batch WHERE batch.batch_id = given.batch_id)
       )::text AS not_shown
FROM (SELECT coalesce(max(batch_id), 0) AS last_batch FROM analytics.ingestion_batches) AS newest;

-- name: compare
-- Buckets of a UTC day, in one part of the rollups, that differ from the raw events they should show. Only those
-- from `since` on, where that is not NULL, and events of hours before `until`, as add does. The sums that came
-- with dimensions are compared from `all_since` on. Of grain 30 are the first halves of the hours that keep them.
WITH events AS (
    SELECT org_id, model_id, date_bin('1 hour', occurred_at, 'epoch') AS hour,
           date_bin('30 minutes', occurred_at, 'epoch') AS half,
           CASE %(dimension)s WHEN '' THEN '' WHEN 'client' THEN client_id WHEN 'actor' THEN actor_id
                WHEN 'apiKey' THEN api_key_id WHEN 'provider' THEN provider WHEN 'operation' THEN operation
                ELSE left(metadata ->> substr(%(dimension)s, length('metadata.') + 1), 200) END COLLATE "C" AS value,
           status, latency_ms, analytics.latency_bin(latency_ms) AS latency_bin,
           analytics.latency_bin(time_to_first_token_ms) AS first_token_bin, input_tokens, output_tokens,
           cached_input_tokens, cache_write_input_tokens, reasoning_tokens, cost_estimate_cents
    FROM analytics.usage_events
    WHERE occurred_at >= %(day)s AND occurred_at < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
      AND batch_id <= %(last_batch)s AND batch_id <> ALL (%(not_shown)s::bigint[])
), raw AS (
    SELECT org_id, model_id, CASE %(grain)s WHEN 1440 THEN %(day)s::timestamptz ELSE hour END AS bucket_start, value,
           ARRAY[count(*), sum(input_tokens), sum(output_tokens), sum(cost_estimate_cents)] AS sums,
           ARRAY[count(*) FILTER (WHERE status = 'error'), count(*) FILTER (WHERE status = 'timeout'),
                 count(*) FILTER (WHERE status = 'throttled')] AS by_status,
           ARRAY[coalesce(sum(cached_input_tokens), 0), coalesce(sum(cache_write_input_tokens), 0),
                 coalesce(sum(reasoning_tokens), 0),
                 coalesce(sum(output_tokens) FILTER (WHERE status = 'success'), 0),
                 coalesce(sum(latency_ms) FILTER (WHERE status = 'success'), 0)] AS parts,
           analytics.latency_fold(array_agg(latency_bin))::text AS latencies,
           analytics.latency_fold(array_agg(first_token_bin) FILTER (WHERE first_token_bin IS NOT NULL))::text AS first_tokens
    FROM events
    WHERE value IS NOT NULL AND (%(until)s::timestamptz IS NULL OR hour < %(until)s::timestamptz)
      AND (%(grain)s <> 30 OR half = hour AND extract(hour FROM hour AT TIME ZONE 'UTC')::int = ANY (%(half_hours)s::int[]))
    GROUP BY 1, 2, 3, 4
), rollup AS (
    SELECT *
    FROM (SELECT org_id, model_id, value, invocations, status_error, status_timeout, status_throttled,
                 input_tokens, output_tokens, cached_input_tokens, cache_write_input_tokens, reasoning_tokens,
                 cost_estimate_cents, success_output_tokens, success_latency_ms,
                 latency_bins, latency_counts, first_token_bins, first_token_counts,
                 bucket_start AS half, date_bin('1 hour', bucket_start, 'epoch') AS bucket_start
          FROM analytics.{table}
          WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
            AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)) AS part
    WHERE %(grain)s <> 30
       OR half = bucket_start AND extract(hour FROM half AT TIME ZONE 'UTC')::int = ANY (%(half_hours)s::int[])
), latencies AS (
    SELECT org_id, model_id, bucket_start, value, ROW(array_agg(bin ORDER BY bin), array_agg(events ORDER BY bin))::text AS latencies
    FROM (SELECT org_id, model_id, bucket_start, value, bin, sum(events)::bigint AS events
          FROM rollup, unnest(latency_bins, latency_counts) AS entry (bin, events)
          WHERE events > 0 GROUP BY 1, 2, 3, 4, 5) AS folded
    GROUP BY 1, 2, 3, 4
), first_tokens AS (
    SELECT org_id, model_id, bucket_start, value, ROW(array_agg(bin ORDER BY bin), array_agg(events ORDER BY bin))::text AS first_tokens
    FROM (SELECT org_id, model_id, bucket_start, value, bin, sum(events)::bigint AS events
          FROM rollup, unnest(first_token_bins, first_token_counts) AS entry (bin, events)
          WHERE events > 0 GROUP BY 1, 2, 3, 4, 5) AS folded
    GROUP BY 1, 2, 3, 4
), rolled AS (
    SELECT org_id, model_id, bucket_start, value, sums, by_status, parts,
           coalesce(latencies, '({},{})') AS latencies, coalesce(first_tokens, '({},{})') AS first_tokens
    FROM (SELECT org_id, model_id, bucket_start, value,
                 ARRAY[sum(invocations), sum(input_tokens), sum(output_tokens), sum(cost_estimate_cents)] AS sums,
                 ARRAY[sum(status_error)::bigint, sum(status_timeout)::bigint, sum(status_throttled)::bigint] AS by_status,
                 ARRAY[sum(cached_input_tokens), sum(cache_write_input_tokens), sum(reasoning_tokens),
                       sum(success_output_tokens), sum(success_latency_ms)] AS parts
          FROM rollup GROUP BY 1, 2, 3, 4) AS summed
    LEFT JOIN latencies USING (org_id, model_id, bucket_start, value)
    LEFT JOIN first_tokens USING (org_id, model_id, bucket_start, value)
), compared AS (
    SELECT org_id, model_id, bucket_start, value, raw.sums AS raw_sums, rolled.sums AS rolled_sums,
           raw.by_status IS DISTINCT FROM rolled.by_status AS status_differs,
           raw.latencies IS DISTINCT FROM rolled.latencies AS latency_differs,
           (%(all_since)s::timestamptz IS NULL OR bucket_start >= %(all_since)s::timestamptz)
               AND raw.parts IS DISTINCT FROM rolled.parts AS parts_differ,
           (%(all_since)s::timestamptz IS NULL OR bucket_start >= %(all_since)s::timestamptz)
               AND raw.first_tokens IS DISTINCT FROM rolled.first_tokens AS first_token_differs
    FROM raw FULL JOIN rolled USING (org_id, model_id, bucket_start, value)
    WHERE %(since)s::timestamptz IS NULL OR bucket_start >= %(since)s::timestamptz
)
SELECT org_id, model_id, bucket_start, value, raw_sums, rolled_sums, status_differs, latency_differs,
       parts_differ, first_token_differs
FROM compared
WHERE raw_sums IS DISTINCT FROM rolled_sums OR status_differs OR latency_differs OR parts_differ
   OR first_token_differs
ORDER BY org_id, bucket_start, model_id, value
LIMIT %(max_rows)s;

-- name: sort_groups
-- For the transaction: one group's bins in memory at a time, and not those of all.
SET LOCAL enable_hashagg = off;

-- name: compare_days
-- Models whose daily rollup differs from the sum of its hours, for days of which raw events were dropped.
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
           input_tokens, output_tokens, cost_estimate_cents
    FROM analytics.daily_rollups
    WHERE bucket_start = %(day)s AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
), day_bins AS (
    SELECT org_id, model_id, array_agg(bin || ':' || events ORDER BY bin) AS histogram
    FROM (SELECT org_id, model_id, bin, sum(events)::bigint AS events
          FROM analytics.daily_rollups, unnest(latency_bins, latency_counts) AS entry (bin, events)
          WHERE bucket_start = %(day)s AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
          GROUP BY 1, 2, 3) AS folded
    GROUP BY 1, 2
)
SELECT org_id, model_id, %(day)s::timestamptz AS bucket_start,
       hours.invocations AS expected_invocations, days.invocations AS shown_invocations,
       hours.input_tokens AS expected_input_tokens, days.input_tokens AS shown_input_tokens,
       hours.output_tokens AS expected_output_tokens, days.output_tokens AS shown_output_tokens,
       hours.cost_estimate_cents AS expected_cost_estimate_cents, days.cost_estimate_cents AS shown_cost_estimate_cents,
       (hours.status_error, hours.status_timeout, hours.status_throttled)
           IS DISTINCT FROM (days.status_error, days.status_timeout, days.status_throttled) AS statuses_differ,
       hour_bins.histogram IS DISTINCT FROM day_bins.histogram AS latencies_differ
FROM (hours JOIN hour_bins USING (org_id, model_id))
FULL JOIN (days LEFT JOIN day_bins USING (org_id, model_id)) USING (org_id, model_id)
WHERE (hours.invocations, hours.status_error, hours.status_timeout, hours.status_throttled,
       hours.input_tokens, hours.output_tokens, hours.cost_estimate_cents, hour_bins.histogram)
      IS DISTINCT FROM
      (days.invocations, days.status_error, days.status_timeout, days.status_throttled,
       days.input_tokens, days.output_tokens, days.cost_estimate_cents, day_bins.histogram)
ORDER BY org_id, model_id
LIMIT %(max_rows)s;

-- name: compare_error_codes
-- Error codes of a UTC day whose count by half an hour, by hour, or by day, differs from the raw rows'.
WITH raw AS (
    SELECT org_id, model_id, error_code, date_bin('1 hour', occurred_at, 'epoch') AS bucket_start, count(*) AS events,
           count(*) FILTER (WHERE date_bin('30 minutes', occurred_at, 'epoch') = date_bin('1 hour', occurred_at, 'epoch'))
               AS first_half
    FROM analytics.usage_events
    WHERE occurred_at >= %(day)s AND occurred_at < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
      AND status <> 'success' AND error_code IS NOT NULL
      AND batch_id <= %(last_batch)s AND batch_id <> ALL (%(not_shown)s::bigint[])
    GROUP BY 1, 2, 3, 4
), raw_half AS (
    SELECT org_id, model_id, error_code, bucket_start, first_half AS events FROM raw
    WHERE first_half > 0 AND extract(hour FROM bucket_start AT TIME ZONE 'UTC')::int = ANY (%(half_hours)s::int[])
), halves AS (
    SELECT org_id, model_id, value AS error_code, bucket_start, invocations AS events
    FROM analytics.rollups_error_code_halves
    WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
), hours AS (
    SELECT org_id, model_id, value AS error_code, bucket_start, invocations AS events
    FROM analytics.rollups_error_code_hours
    WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
      AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
), raw_day AS (
    SELECT org_id, model_id, error_code, sum(events)::bigint AS events FROM raw GROUP BY 1, 2, 3
), days AS (
    SELECT org_id, model_id, value AS error_code, invocations AS events FROM analytics.rollups_error_code_days
    WHERE bucket_start = %(day)s AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)
)
SELECT org_id, model_id, bucket_start, 'hour' AS grain, error_code, raw.events AS expected, hours.events AS shown
FROM raw FULL JOIN hours USING (org_id, model_id, error_code, bucket_start)
WHERE raw.events IS DISTINCT FROM hours.events
UNION ALL
SELECT org_id, model_id, %(day)s::timestamptz, 'day', error_code, raw_day.events, days.events
FROM raw_day FULL JOIN days USING (org_id, model_id, error_code)
WHERE raw_day.events IS DISTINCT FROM days.events
UNION ALL
SELECT org_id, model_id, bucket_start, 'half', error_code, raw_half.events, halves.events
FROM raw_half FULL JOIN halves USING (org_id, model_id, error_code, bucket_start)
WHERE raw_half.events IS DISTINCT FROM halves.events
  AND (%(halves_since)s::timestamptz IS NULL OR bucket_start >= %(halves_since)s::timestamptz)
LIMIT %(max_rows)s;

-- name: count_compared
-- How many hourly and daily rollups and how many events a UTC day's comparison covered.
SELECT hours, days, events
FROM (SELECT count(*) AS hours FROM analytics.hourly_rollups
      WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
        AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)) AS hourly,
     (SELECT count(*) AS days, coalesce(sum(invocations), 0)::bigint AS events FROM analytics.daily_rollups
      WHERE bucket_start = %(day)s AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid)) AS daily;
