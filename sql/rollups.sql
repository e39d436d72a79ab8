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

-- name: set_temp_buffers
-- Lets a claim's events be kept in memory. A session's first use of temporary tables decides, so all say the same.
SET LOCAL temp_buffers = '32MB';

-- name: set_work_mem
-- Lets them be sorted in memory, in this transaction.
SET LOCAL work_mem = '64MB';

-- name: create_gathered
-- Where a transaction keeps the events that it adds, one row each. Gone at its end: behind a pooler another process,
-- perhaps of another release, has the session next.
CREATE TEMPORARY TABLE gathered (
    org_id uuid, model_id text COLLATE "C", hour timestamptz, half timestamptz, occurred_at timestamptz,
    latency_bin smallint, first_token_bin smallint,
    status text COLLATE "C", latency_ms integer, input_tokens bigint, output_tokens bigint,
    cached_input_tokens bigint, cache_write_input_tokens bigint, reasoning_tokens bigint, cost_estimate_cents numeric,
    error_code text COLLATE "C", client_id text COLLATE "C", actor_id text COLLATE "C", api_key_id text COLLATE "C",
    provider text COLLATE "C", operation text COLLATE "C", metadata jsonb
) ON COMMIT DROP;

-- relation: gathered_events
-- What is gathered of each event. `half` is the half of its hour where such halves are kept, else the hour.
SELECT org_id, model_id, date_bin('1 hour', occurred_at, 'epoch'),
       CASE WHEN extract(hour FROM occurred_at AT TIME ZONE 'UTC')::int = ANY (%(half_hours)s::int[])
            THEN date_bin('30 minutes', occurred_at, 'epoch') ELSE date_bin('1 hour', occurred_at, 'epoch') END,
       occurred_at, analytics.latency_bin(latency_ms), analytics.latency_bin(time_to_first_token_ms),
       status, latency_ms, input_tokens, output_tokens,
       cached_input_tokens, cache_write_input_tokens, reasoning_tokens, cost_estimate_cents,
       error_code, CASE WHEN %(with_values)s THEN client_id END, CASE WHEN %(with_values)s THEN actor_id END,
       CASE WHEN %(with_values)s THEN api_key_id END, CASE WHEN %(with_values)s THEN provider END,
       CASE WHEN %(with_values)s THEN operation END, CASE WHEN %(with_metadata)s THEN metadata END
FROM analytics.usage_events

-- name: gather_batches
-- The events of some batches. The bounds let the planner open only the days they touch. Sorted where there are
-- dimensions: to append an organisation's rows one after another costs less, and so does reading them.
INSERT INTO gathered
{gathered_events}
WHERE batch_id = ANY(%(batch_ids)s)
  AND occurred_at BETWEEN %(oldest)s AND %(newest)s
ORDER BY CASE WHEN %(with_values)s OR %(with_metadata)s THEN org_id END;

-- name: gather_hour
-- The events of some organisations in [hour, next_hour) that the rollups already show (`shown`); others are added later.
INSERT INTO gathered
{gathered_events}
WHERE occurred_at >= %(hour)s AND occurred_at < %(next_hour)s AND org_id = ANY(%(org_ids)s::uuid[])
  AND batch_id <= %(last_batch)s AND batch_id <> ALL (%(not_shown)s::bigint[])
ORDER BY CASE WHEN %(with_values)s OR %(with_metadata)s THEN org_id END;

-- name: set_statistics_target
-- How closely `analyze_gathered` looks, in this transaction: a few thousand events tell enough.
SET LOCAL default_statistics_target = 10;

-- name: analyze_gathered
-- Tells the planner how many groups to expect. Without it, it hashes many small groups and spills to disk, or sorts
-- for a few large ones.
ANALYZE gathered (org_id, model_id, hour, half, client_id, actor_id, api_key_id, provider, operation);

-- name: empty_gathered
-- Makes room for the next hour's events.
TRUNCATE gathered, summed;

-- name: create_summed
-- Where a transaction keeps what the gathered events of each half, model and provider sum to, and whether the model has
-- but this one row. Gone at its end, as `gathered` is.
CREATE TEMPORARY TABLE summed (
    org_id uuid, half timestamptz, model_id text COLLATE "C", provider text COLLATE "C", is_alone boolean,
    last_event_at timestamptz, invocations bigint, status_error bigint, status_timeout bigint, status_throttled bigint,
    input_tokens numeric, output_tokens numeric, cached_input_tokens numeric, cache_write_input_tokens numeric,
    reasoning_tokens numeric, cost_estimate_cents numeric, success_output_tokens numeric, success_latency_ms numeric,
    latency_bins smallint[], latency_counts bigint[], first_token_bins smallint[], first_token_counts bigint[]
) ON COMMIT DROP;

-- relation: sums
-- What events sum to.
    count(*) AS invocations,
    count(*) FILTER (WHERE status = 'error') AS status_error,
    count(*) FILTER (WHERE status = 'timeout') AS status_timeout,
    count(*) FILTER (WHERE status = 'throttled') AS status_throttled,
    sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
    coalesce(sum(cached_input_tokens), 0) AS cached_input_tokens,
    coalesce(sum(cache_write_input_tokens), 0) AS cache_write_input_tokens,
    coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens,
    sum(cost_estimate_cents) AS cost_estimate_cents,
    coalesce(sum(output_tokens) FILTER (WHERE status = 'success'), 0) AS success_output_tokens,
    coalesce(sum(latency_ms) FILTER (WHERE status = 'success'), 0) AS success_latency_ms,
    array_agg(latency_bin) AS latency_bins, count(first_token_bin) AS first_tokens,
    array_agg(first_token_bin) FILTER (WHERE first_token_bin IS NOT NULL) AS first_token_bins

-- relation: histograms
-- The histograms of `sums`: few bins as they come, many folded.
    CASE WHEN invocations > 32 THEN (analytics.latency_fold(latency_bins)).latency_bins ELSE latency_bins END,
    CASE WHEN invocations > 32 THEN (analytics.latency_fold(latency_bins)).latency_counts
         ELSE array_fill(1::bigint, ARRAY[invocations::integer]) END,
    CASE WHEN first_tokens > 32 THEN (analytics.latency_fold(first_token_bins)).latency_bins
         ELSE coalesce(first_token_bins, '{}') END,
    CASE WHEN first_tokens > 32 THEN (analytics.latency_fold(first_token_bins)).latency_counts
         ELSE array_fill(1::bigint, ARRAY[first_tokens::integer]) END

-- relation: columns
-- The columns of a part that are written.
    (org_id, bucket_start, model_id, value, invocations, errors, status_error, status_timeout, status_throttled,
     input_tokens, output_tokens, cached_input_tokens, cache_write_input_tokens, reasoning_tokens,
     cost_estimate_cents, success_output_tokens, success_latency_ms,
     latency_bins, latency_counts, first_token_bins, first_token_counts)

-- relation: is_first_half
-- Whether it is the first half of an hour in whose middle a day of some zone begins.
(half = date_bin('1 hour', half, 'epoch') AND extract(hour FROM half AT TIME ZONE 'UTC')::int = ANY (%(half_hours)s::int[]))

-- relation: events
-- The gathered events with their bucket, half an hour where `halves` says so, the hour or the UTC day, and their value
-- of the dimension; an event without one is left out. Only hours from `since` on and before `until`, where those are
-- not NULL.
(
    SELECT *
    FROM (SELECT *, CASE WHEN %(halves)s THEN half WHEN %(grain)s = 60 THEN hour
                      ELSE date_trunc('day', hour, 'UTC') END AS bucket_start,
                 CASE %(dimension)s WHEN 'client' THEN client_id WHEN 'actor' THEN actor_id
                      WHEN 'apiKey' THEN api_key_id WHEN 'provider' THEN provider WHEN 'operation' THEN operation
                      ELSE left(metadata ->> substr(%(dimension)s, length('metadata.') + 1), 200) END AS value
          FROM gathered
          WHERE (%(since)s::timestamptz IS NULL OR hour >= %(since)s::timestamptz)
            AND (%(until)s::timestamptz IS NULL OR hour < %(until)s::timestamptz)) AS each
    WHERE value IS NOT NULL
) AS event

-- relation: added
-- The gathered events as rows of a part of the rollups. In key order, so that two workers never wait for each other.
SELECT org_id, bucket_start, model_id, value, invocations, status_error + status_timeout + status_throttled,
       status_error, status_timeout, status_throttled,
       input_tokens, output_tokens, cached_input_tokens, cache_write_input_tokens, reasoning_tokens,
       cost_estimate_cents, success_output_tokens, success_latency_ms, {histograms}
FROM (
    SELECT org_id, bucket_start, model_id, value, {sums}
    FROM {events}
    GROUP BY org_id, bucket_start, model_id, value
    ORDER BY org_id, bucket_start, model_id, value
) AS added

-- relation: add_up
-- What becomes of a group that has a row. Bins are appended and seldom folded.
ON CONFLICT ON CONSTRAINT {table}_pkey DO UPDATE SET
    invocations = rollup.invocations + excluded.invocations,
    errors = rollup.errors + excluded.errors,
    status_error = rollup.status_error + excluded.status_error,
    status_timeout = rollup.status_timeout + excluded.status_timeout,
    status_throttled = rollup.status_throttled + excluded.status_throttled,
    input_tokens = rollup.input_tokens + excluded.input_tokens,
    output_tokens = rollup.output_tokens + excluded.output_tokens,
    cached_input_tokens = rollup.cached_input_tokens + excluded.cached_input_tokens,
    cache_write_input_tokens = rollup.cache_write_input_tokens + excluded.cache_write_input_tokens,
    reasoning_tokens = rollup.reasoning_tokens + excluded.reasoning_tokens,
    cost_estimate_cents = rollup.cost_estimate_cents + excluded.cost_estimate_cents,
    success_output_tokens = rollup.success_output_tokens + excluded.success_output_tokens,
    success_latency_ms = rollup.success_latency_ms + excluded.success_latency_ms,
    latency_bins = analytics.append_bins(rollup.latency_bins, rollup.latency_counts,
                                         excluded.latency_bins, excluded.latency_counts),
    latency_counts = analytics.append_counts(rollup.latency_bins, rollup.latency_counts,
                                             excluded.latency_bins, excluded.latency_counts),
    first_token_bins = analytics.append_bins(rollup.first_token_bins, rollup.first_token_counts,
                                             excluded.first_token_bins, excluded.first_token_counts),
    first_token_counts = analytics.append_counts(rollup.first_token_bins, rollup.first_token_counts,
                                                 excluded.first_token_bins, excluded.first_token_counts)

-- name: append
-- Appends the gathered events to the hours of a dimension, whose groups may have several rows; see merge_hour.
INSERT INTO analytics.{table} {columns}
{added};

-- name: append_each
-- As `append`, a row for each event: where nearly each is a group of its own, to group them costs more than it saves.
INSERT INTO analytics.{table} {columns}
SELECT org_id, bucket_start, model_id, value, 1, (status <> 'success')::int,
       (status = 'error')::int, (status = 'timeout')::int, (status = 'throttled')::int,
       input_tokens, output_tokens, coalesce(cached_input_tokens, 0), coalesce(cache_write_input_tokens, 0),
       coalesce(reasoning_tokens, 0), cost_estimate_cents,
       CASE WHEN status = 'success' THEN output_tokens ELSE 0 END, CASE WHEN status = 'success' THEN latency_ms ELSE 0 END,
       ARRAY[latency_bin], '{1}',
       CASE WHEN first_token_bin IS NULL THEN '{}' ELSE ARRAY[first_token_bin] END,
       CASE WHEN first_token_bin IS NULL THEN '{}' ELSE '{1}'::bigint[] END
FROM {events};

-- name: add
-- Adds the gathered events to a part of the rollups that has one row for each group.
INSERT INTO analytics.{table} AS rollup {columns}
{added}
{add_up};

-- name: sum_models
-- Sums the gathered events by half, model and provider, once for what follows: nearly every model has one provider.
INSERT INTO summed
SELECT org_id, half, model_id, provider, count(*) OVER (PARTITION BY org_id, model_id) = 1,
       last_event_at, invocations, status_error, status_timeout, status_throttled,
       input_tokens, output_tokens, cached_input_tokens, cache_write_input_tokens, reasoning_tokens,
       cost_estimate_cents, success_output_tokens, success_latency_ms, {histograms}
FROM (
    SELECT org_id, half, model_id, provider, max(occurred_at) AS last_event_at, {sums}
    FROM gathered
    GROUP BY org_id, model_id, half, provider
) AS added;

-- name: add_models
-- Adds those sums to the models' first halves of hours (grain 30), hours or days. A model's only row is added as it
-- is: to sum single rows would cost more than to add them. In key order, so that two workers never wait for each other.
INSERT INTO analytics.{table} AS rollup {columns}
SELECT org_id, date_bin(make_interval(mins => greatest(%(grain)s, 60)), half, 'epoch') AS bucket, model_id, '',
       invocations, status_error + status_timeout + status_throttled, status_error, status_timeout, status_throttled,
       input_tokens, output_tokens, cached_input_tokens, cache_write_input_tokens,
       reasoning_tokens, cost_estimate_cents, success_output_tokens, success_latency_ms,
       latency_bins, latency_counts, first_token_bins, first_token_counts
FROM summed
WHERE is_alone AND (%(grain)s <> 30 OR {is_first_half})
UNION ALL
SELECT org_id, date_bin(make_interval(mins => greatest(%(grain)s, 60)), half, 'epoch') AS bucket, model_id, '',
       sum(invocations)::bigint, sum(status_error + status_timeout + status_throttled)::bigint,
       sum(status_error)::bigint, sum(status_timeout)::bigint, sum(status_throttled)::bigint,
       sum(input_tokens), sum(output_tokens), sum(cached_input_tokens), sum(cache_write_input_tokens),
       sum(reasoning_tokens), sum(cost_estimate_cents), sum(success_output_tokens), sum(success_latency_ms),
       analytics.concat(latency_bins), analytics.concat(latency_counts),
       analytics.concat(first_token_bins), analytics.concat(first_token_counts)
FROM summed
WHERE NOT is_alone AND (%(grain)s <> 30 OR {is_first_half})
GROUP BY org_id, bucket, model_id
ORDER BY org_id, bucket, model_id
{add_up};

-- name: append_providers
-- Appends those sums to the hours of providers.
INSERT INTO analytics.{table} {columns}
SELECT org_id, CASE WHEN %(halves)s THEN half ELSE date_bin('1 hour', half, 'epoch') END, model_id, provider,
       invocations, status_error + status_timeout + status_throttled, status_error, status_timeout, status_throttled,
       input_tokens, output_tokens, cached_input_tokens, cache_write_input_tokens,
       reasoning_tokens, cost_estimate_cents, success_output_tokens, success_latency_ms,
       latency_bins, latency_counts, first_token_bins, first_token_counts
FROM summed
WHERE provider IS NOT NULL AND (%(since)s::timestamptz IS NULL OR half >= %(since)s::timestamptz)
  AND (%(until)s::timestamptz IS NULL OR half < %(until)s::timestamptz);

-- name: add_error_codes
-- Adds the gathered events' error codes to a part of the rollups; they count and sum nothing else.
INSERT INTO analytics.{table} AS rollup (org_id, bucket_start, model_id, value, invocations)
SELECT org_id, date_bin(make_interval(mins => greatest(%(grain)s, 60)), half, 'epoch') AS bucket_start, model_id,
       error_code, count(*)
FROM gathered
WHERE status <> 'success' AND error_code IS NOT NULL AND (%(grain)s <> 30 OR {is_first_half})
GROUP BY org_id, bucket_start, model_id, error_code
ORDER BY org_id, bucket_start, model_id, error_code
ON CONFLICT ON CONSTRAINT {table}_pkey DO UPDATE SET invocations = rollup.invocations + excluded.invocations;

-- name: hours_to_merge
-- Organisations and hours, from an hour on, that have at least so many rows in a dimension's hours. Organisations are
-- taken from model_freshness, since an hour is found by its organisation.
SELECT active.org_id::text, hours.bucket_start, hours.row_count
FROM (SELECT DISTINCT org_id FROM analytics.model_freshness WHERE last_event_at >= %(since)s) AS active
CROSS JOIN LATERAL (
    SELECT date_bin('1 hour', bucket_start, 'epoch') AS bucket_start, count(*) AS row_count FROM analytics.{table} AS part
    WHERE part.org_id = active.org_id AND bucket_start >= %(since)s AND bucket_start < %(until)s
    GROUP BY 1
) AS hours
WHERE row_count >= %(min_rows)s
ORDER BY org_id, bucket_start;

-- name: try_lock_merge
-- Whether this transaction is the one that merges.
SELECT pg_try_advisory_xact_lock(hashtext('analytics.merge_hour'));

-- name: merge_hour
-- Makes one row of several that some organisations have for a group in an hour of a dimension, or one for each half of
-- the hour where `halves` says so. Returns how many rows were taken and how many were made. Rows are found by a window
-- and not by a join: how many there are of a group is what the planner cannot know, and it would compare each with each.
-- A row's bins are unnested, so that one pass serves all; its sums count with the first of them.
WITH taken AS (
    DELETE FROM analytics.{table} WHERE org_id IN %(org_ids)s AND ctid = ANY (ARRAY(
        SELECT ctid
        FROM (SELECT ctid, count(*) OVER (PARTITION BY org_id, model_id, value, CASE WHEN %(halves)s THEN bucket_start END) AS of_group
              FROM analytics.{table}
              WHERE org_id IN %(org_ids)s
                AND bucket_start >= %(hour)s AND bucket_start < %(hour)s::timestamptz + interval '1 hour') AS found
        WHERE of_group > 1))
    RETURNING *
), merged AS (
    SELECT org_id, bucket, model_id, value,
           sum(invocations) FILTER (WHERE is_first) AS invocations, sum(errors) FILTER (WHERE is_first) AS errors,
           sum(status_error) FILTER (WHERE is_first) AS status_error,
           sum(status_timeout) FILTER (WHERE is_first) AS status_timeout,
           sum(status_throttled) FILTER (WHERE is_first) AS status_throttled,
           sum(input_tokens) FILTER (WHERE is_first) AS input_tokens,
           sum(output_tokens) FILTER (WHERE is_first) AS output_tokens,
           sum(cached_input_tokens) FILTER (WHERE is_first) AS cached_input_tokens,
           sum(cache_write_input_tokens) FILTER (WHERE is_first) AS cache_write_input_tokens,
           sum(reasoning_tokens) FILTER (WHERE is_first) AS reasoning_tokens,
           sum(cost_estimate_cents) FILTER (WHERE is_first) AS cost_estimate_cents,
           sum(success_output_tokens) FILTER (WHERE is_first) AS success_output_tokens,
           sum(success_latency_ms) FILTER (WHERE is_first) AS success_latency_ms,
           coalesce(array_agg(bin) FILTER (WHERE bin IS NOT NULL), '{}') AS bins,
           coalesce(array_agg(events) FILTER (WHERE bin IS NOT NULL), '{}') AS counts,
           coalesce(array_agg(token_bin) FILTER (WHERE token_bin IS NOT NULL), '{}') AS token_bins,
           coalesce(array_agg(tokens) FILTER (WHERE token_bin IS NOT NULL), '{}') AS token_counts
    FROM (SELECT taken.*, bin, events, token_bin, tokens, coalesce(number, 1) = 1 AS is_first,
                 CASE WHEN %(halves)s THEN bucket_start ELSE %(hour)s::timestamptz END AS bucket
          FROM taken
          LEFT JOIN LATERAL unnest(latency_bins, latency_counts, first_token_bins, first_token_counts)
              WITH ORDINALITY AS entry (bin, events, token_bin, tokens, number) ON true) AS entries
    GROUP BY org_id, bucket, model_id, value
), made AS (
    INSERT INTO analytics.{table} {columns}
    SELECT org_id, bucket, model_id, value, invocations, errors, status_error, status_timeout, status_throttled,
           input_tokens, output_tokens, cached_input_tokens, cache_write_input_tokens, reasoning_tokens,
           cost_estimate_cents, success_output_tokens, success_latency_ms,
           coalesce(latency.bins, merged.bins), coalesce(latency.counts, merged.counts),
           coalesce(first_token.bins, merged.token_bins), coalesce(first_token.counts, merged.token_counts)
    FROM merged
    CROSS JOIN LATERAL (
        SELECT array_agg(bin ORDER BY bin) AS bins, array_agg(events ORDER BY bin) AS counts
        FROM (SELECT bin, sum(events)::bigint AS events
              FROM unnest(CASE WHEN cardinality(merged.bins) > 64 THEN merged.bins END, merged.counts) AS entry (bin, events)
              WHERE bin IS NOT NULL AND events > 0 GROUP BY bin) AS folded) AS latency
    CROSS JOIN LATERAL (
        SELECT array_agg(bin ORDER BY bin) AS bins, array_agg(events ORDER BY bin) AS counts
        FROM (SELECT bin, sum(events)::bigint AS events
              FROM unnest(CASE WHEN cardinality(token_bins) > 64 THEN token_bins END, token_counts) AS entry (bin, events)
              WHERE bin IS NOT NULL AND events > 0 GROUP BY bin) AS folded) AS first_token
    RETURNING 1
)
SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM made);

-- name: add_hour_to_days
-- Adds the rollups of a half of a past hour of a dimension to its days, after they were merged to one a group.
-- Organisations are taken from model_freshness, since an hour is found by its organisation.
INSERT INTO analytics.{table} AS rollup {columns}
SELECT hours.org_id, date_trunc('day', hours.bucket_start, 'UTC'), model_id, value,
       invocations, errors, status_error, status_timeout, status_throttled,
       input_tokens, output_tokens, cached_input_tokens, cache_write_input_tokens, reasoning_tokens,
       cost_estimate_cents, success_output_tokens, success_latency_ms,
       latency_bins, latency_counts, first_token_bins, first_token_counts
FROM (SELECT DISTINCT org_id FROM analytics.model_freshness WHERE last_event_at >= %(half)s) AS active
JOIN analytics.{hours_table} AS hours ON hours.org_id = active.org_id AND hours.bucket_start = %(half)s
ORDER BY org_id, model_id, value
{add_up};

-- name: remove_hour
-- Removes a past hour of a dimension that keeps days alone, in the transaction that adds it to them.
DELETE FROM analytics.{table} AS part
USING (SELECT DISTINCT org_id FROM analytics.model_freshness WHERE last_event_at >= %(hour)s) AS active
WHERE part.org_id = active.org_id
  AND bucket_start >= %(hour)s AND bucket_start < %(hour)s::timestamptz + interval '1 hour';

-- name: note_freshness
-- Notes the newest event that the rollups now show, by model.
INSERT INTO analytics.model_freshness AS known (org_id, model_id, last_event_at, last_rollup_at)
SELECT org_id, model_id, max(last_event_at), clock_timestamp() FROM summed
GROUP BY org_id, model_id
ORDER BY org_id, model_id
ON CONFLICT (org_id, model_id) DO UPDATE SET
    last_event_at = greatest(known.last_event_at, excluded.last_event_at),
    last_rollup_at = greatest(known.last_rollup_at, excluded.last_rollup_at);

-- name: mark_batches
-- The batches are shown, in every dimension that is listed; in the transaction that added them.
UPDATE analytics.ingestion_batches SET rolled_up_at = clock_timestamp(), with_dimensions = true
WHERE batch_id = ANY(%(batch_ids)s);

-- name: clear_day
-- Removes some organisations' rollups of a UTC day from a part, before they are made again from raw events.
DELETE FROM analytics.{table}
WHERE org_id = ANY(%(org_ids)s::uuid[]) AND bucket_start >= %(day)s AND bucket_start < %(next_day)s;
