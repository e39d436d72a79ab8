-- What cuts read. Each of their statements reads one dimension, `dimension`, and has the same relations:
--
-- piece  which sums make up which bucket (shared/pieces.py), by grain: days, hours, and raw events where no sums
--        are kept; each is added to one bucket and taken from another
-- winner the groups of the top: `pick` says whether all rows are read (all), those of groups (winners), or those
--        whose group is there without a value (valueless)
--
-- Whether a statement groups by organisation, model and value, and which pieces there are, is said by constants,
-- so that the planner leaves out what is not needed.

-- name: kept
-- What is kept, '' being models alone: whether it may be asked for, whether hours are kept and for how long, since
-- when it is complete, and until when its days hold its hours.
-- Groups are hashed in this transaction: how many rows there are depends on pieces that the planner cannot weigh.
SELECT name, groupable, keeps_hours, hours_kept, complete_since, days_until, set_config('enable_sort', 'off', true),
       set_config('cursor_tuple_fraction', '1', true), set_config('work_mem', '16MB', true)
FROM analytics.rollup_dimensions
ORDER BY name;

-- name: events_kept_since
-- Since when no raw events were dropped, NULL while all are there. This keeps the next days until the transaction ends.
SELECT (max(day) + 1)::timestamp AT TIME ZONE 'UTC' FROM analytics.dropped_days WHERE what = 'events';

-- name: orgs
-- Every organisation that has rollups.
SELECT array_agg(DISTINCT org_id::text) FROM analytics.model_freshness;

-- name: plain_usage
-- Usage by whole UTC hours or days and by model: each bucket's points as JSON, how many they are, and their sums.
-- Written here, numbers go from numeric to the answer without a float between, in half the time of rows.
SELECT string_agg(
           concat('{"bucketStart":"', to_char(bucket_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                  '","modelId":', to_json(model_id), ',"invocations":', invocations, ',"errors":', errors,
                  ',"inputTokens":', input_tokens, ',"outputTokens":', output_tokens,
                  ',"costEstimateCents":', trim_scale(cost_estimate_cents),
                  ',"cachedInputTokens":', cached_input_tokens,
                  ',"cacheWriteInputTokens":', cache_write_input_tokens,
                  ',"reasoningTokens":', reasoning_tokens, '}'),
           ',' ORDER BY model_id),
       count(*), sum(invocations)::text, sum(errors)::text, sum(input_tokens)::text, sum(output_tokens)::text,
       trim_scale(sum(cost_estimate_cents))::text, sum(cached_input_tokens)::text,
       sum(cache_write_input_tokens)::text, sum(reasoning_tokens)::text
FROM analytics.rollups
WHERE org_id = %(org_id)s AND dimension = '' AND grain = %(grain)s
  AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]))
GROUP BY bucket_start
ORDER BY bucket_start;

-- name: plain_size
-- How many points plain_usage or plain_reliability would have.
SELECT count(*) AS points
FROM analytics.rollups
WHERE org_id = %(org_id)s AND dimension = '' AND grain = %(grain)s
  AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]));

-- name: plain_reliability
-- Reliability by whole UTC hours or days and by model, as `reliability` has it, in the order of the primary key.
SELECT (extract(epoch FROM bucket_start - %(start)s) / (%(grain)s * 60))::int, NULL::text, model_id, NULL, 1,
       invocations, status_error, status_timeout, status_throttled, success_output_tokens, success_latency_ms,
       array_to_string(latency_bins, ','), array_to_string(latency_counts, ','), array_to_string(first_token_bins, ','), array_to_string(first_token_counts, ',')
FROM analytics.rollups
WHERE org_id = %(org_id)s AND dimension = '' AND grain = %(grain)s
  AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]))
ORDER BY bucket_start, model_id;

-- name: usage
-- Usage by bucket and group, in order; with every row goes how many there are in all.
WITH piece AS MATERIALIZED (
    SELECT * FROM unnest(%(grains)s::smallint[], %(lows)s::timestamptz[], %(highs)s::timestamptz[],
                         %(plus)s::int[], %(minus)s::int[])
        WITH ORDINALITY AS piece (grain, low, high, plus, minus, number)
), winner AS MATERIALIZED (
    SELECT coalesce(org_id, %(nil)s::uuid) AS org_id, coalesce(model_id, '') AS model_id, value
    FROM unnest(%(winner_orgs)s::uuid[], %(winner_models)s::text[], %(winner_values)s::text[])
        AS winner (org_id, model_id, value)
), found AS (
    SELECT piece.number, CASE WHEN %(by_org)s THEN r.org_id END AS org_id, CASE WHEN %(by_model)s THEN r.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN r.value END AS value,
           r.invocations, r.errors, r.input_tokens, r.output_tokens, r.cost_estimate_cents,
           r.cached_input_tokens, r.cache_write_input_tokens, r.reasoning_tokens
    FROM piece
    JOIN analytics.rollups r ON r.bucket_start >= piece.low AND r.bucket_start < piece.high
    WHERE %(with_days)s AND piece.grain = 1440 AND r.grain = 1440 AND r.dimension = %(dimension)s
      AND r.org_id = ANY (%(org_ids)s::uuid[])
      AND (%(model_ids)s::text[] IS NULL OR r.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR r.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR r.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN r.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN r.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN r.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
    UNION ALL
    SELECT piece.number, CASE WHEN %(by_org)s THEN r.org_id END AS org_id, CASE WHEN %(by_model)s THEN r.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN r.value END AS value,
           r.invocations, r.errors, r.input_tokens, r.output_tokens, r.cost_estimate_cents,
           r.cached_input_tokens, r.cache_write_input_tokens, r.reasoning_tokens
    FROM piece
    JOIN analytics.rollups r ON r.bucket_start >= piece.low AND r.bucket_start < piece.high
    WHERE %(with_hours)s AND piece.grain = 60 AND r.grain = 60 AND r.dimension = %(dimension)s
      AND r.org_id = ANY (%(org_ids)s::uuid[])
      AND (%(model_ids)s::text[] IS NULL OR r.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR r.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR r.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN r.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN r.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN r.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
    UNION ALL
    SELECT piece.number, CASE WHEN %(by_org)s THEN e.org_id END AS org_id, CASE WHEN %(by_model)s THEN e.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN e.value END AS value,
           1::bigint, (e.status <> 'success')::int::bigint, e.input_tokens::numeric, e.output_tokens::numeric,
           e.cost_estimate_cents,
           CASE WHEN piece.low >= %(sums_since)s::timestamptz THEN coalesce(e.cached_input_tokens, 0) ELSE 0 END::numeric,
           CASE WHEN piece.low >= %(sums_since)s::timestamptz THEN coalesce(e.cache_write_input_tokens, 0) ELSE 0 END::numeric,
           CASE WHEN piece.low >= %(sums_since)s::timestamptz THEN coalesce(e.reasoning_tokens, 0) ELSE 0 END::numeric
    FROM piece
    CROSS JOIN LATERAL (
        SELECT raw.*, CASE %(dimension)s
                   WHEN '' THEN '' WHEN 'client' THEN raw.client_id WHEN 'actor' THEN raw.actor_id
                   WHEN 'apiKey' THEN raw.api_key_id WHEN 'provider' THEN raw.provider
                   WHEN 'operation' THEN raw.operation
                   WHEN 'errorCode' THEN CASE WHEN raw.status <> 'success' THEN raw.error_code END
                   ELSE raw.metadata ->> substr(%(dimension)s, length('metadata.') + 1) END COLLATE "C" AS value
        FROM analytics.usage_events raw
        WHERE raw.org_id = ANY (%(org_ids)s::uuid[])
          AND raw.occurred_at >= piece.low AND raw.occurred_at < piece.high
          AND raw.occurred_at >= %(raw_from)s::timestamptz AND raw.occurred_at < %(raw_to)s::timestamptz
          AND (NOT %(shown_only)s OR raw.batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches
                                                         WHERE rolled_up_at IS NULL))
    ) AS e
    WHERE %(with_raw)s AND piece.grain = 0 AND e.value IS NOT NULL
      AND (%(model_ids)s::text[] IS NULL OR e.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR e.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR e.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN e.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN e.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN e.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN e.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN e.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
), part AS (
    SELECT number, org_id, model_id, value,
           sum(invocations) AS invocations, sum(errors) AS errors, sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens, sum(cost_estimate_cents) AS cost_estimate_cents,
           sum(cached_input_tokens) AS cached_input_tokens,
           sum(cache_write_input_tokens) AS cache_write_input_tokens, sum(reasoning_tokens) AS reasoning_tokens
    FROM found
    GROUP BY number, org_id, model_id, value
), summed AS MATERIALIZED (
    SELECT side.bucket, part.org_id, part.model_id, part.value,
           sum(side.sign * part.invocations) AS invocations, sum(side.sign * part.errors) AS errors,
           sum(side.sign * part.input_tokens) AS input_tokens,
           sum(side.sign * part.output_tokens) AS output_tokens,
           sum(side.sign * part.cost_estimate_cents) AS cost_estimate_cents,
           sum(side.sign * part.cached_input_tokens) AS cached_input_tokens,
           sum(side.sign * part.cache_write_input_tokens) AS cache_write_input_tokens,
           sum(side.sign * part.reasoning_tokens) AS reasoning_tokens
    FROM part
    JOIN piece USING (number)
    CROSS JOIN LATERAL (VALUES (piece.plus, 1), (piece.minus, -1)) AS side (bucket, sign)
    WHERE side.bucket IS NOT NULL
    GROUP BY side.bucket, part.org_id, part.model_id, part.value
    HAVING sum(side.sign * part.invocations) <> 0
)
SELECT bucket, org_id::text, model_id, value, (SELECT count(*) FROM summed),
       trim_scale(invocations)::text, trim_scale(errors)::text, trim_scale(input_tokens)::text,
       trim_scale(output_tokens)::text, trim_scale(cost_estimate_cents)::text,
       trim_scale(cached_input_tokens)::text, trim_scale(cache_write_input_tokens)::text,
       trim_scale(reasoning_tokens)::text
FROM summed
ORDER BY summed.bucket, summed.org_id, summed.model_id, summed.value;

-- name: reliability
-- Reliability by bucket and group, in order. Histograms are texts, numbers separated by commas: that is read in half
-- the time of arrays' bytes. Rows of one group may be several, and their signs are for the reader.
WITH piece AS MATERIALIZED (
    SELECT * FROM unnest(%(grains)s::smallint[], %(lows)s::timestamptz[], %(highs)s::timestamptz[],
                         %(plus)s::int[], %(minus)s::int[])
        WITH ORDINALITY AS piece (grain, low, high, plus, minus, number)
), winner AS MATERIALIZED (
    SELECT coalesce(org_id, %(nil)s::uuid) AS org_id, coalesce(model_id, '') AS model_id, value
    FROM unnest(%(winner_orgs)s::uuid[], %(winner_models)s::text[], %(winner_values)s::text[])
        AS winner (org_id, model_id, value)
), found AS (
    SELECT piece.number, CASE WHEN %(by_org)s THEN r.org_id END AS org_id, CASE WHEN %(by_model)s THEN r.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN r.value END AS value,
           r.invocations, r.status_error, r.status_timeout, r.status_throttled, r.success_output_tokens,
           r.success_latency_ms,
           r.latency_bins, r.latency_counts, r.first_token_bins, r.first_token_counts
    FROM piece
    JOIN analytics.rollups r ON r.bucket_start >= piece.low AND r.bucket_start < piece.high
    WHERE %(with_days)s AND piece.grain = 1440 AND r.grain = 1440 AND r.dimension = %(dimension)s
      AND r.org_id = ANY (%(org_ids)s::uuid[])
      AND (%(model_ids)s::text[] IS NULL OR r.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR r.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR r.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN r.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN r.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN r.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
    UNION ALL
    SELECT piece.number, CASE WHEN %(by_org)s THEN r.org_id END AS org_id, CASE WHEN %(by_model)s THEN r.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN r.value END AS value,
           r.invocations, r.status_error, r.status_timeout, r.status_throttled, r.success_output_tokens,
           r.success_latency_ms,
           r.latency_bins, r.latency_counts, r.first_token_bins, r.first_token_counts
    FROM piece
    JOIN analytics.rollups r ON r.bucket_start >= piece.low AND r.bucket_start < piece.high
    WHERE %(with_hours)s AND piece.grain = 60 AND r.grain = 60 AND r.dimension = %(dimension)s
      AND r.org_id = ANY (%(org_ids)s::uuid[])
      AND (%(model_ids)s::text[] IS NULL OR r.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR r.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR r.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN r.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN r.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN r.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
    UNION ALL
    SELECT piece.number, CASE WHEN %(by_org)s THEN e.org_id END AS org_id, CASE WHEN %(by_model)s THEN e.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN e.value END AS value,
           1::bigint, (e.status = 'error')::int::bigint, (e.status = 'timeout')::int::bigint,
           (e.status = 'throttled')::int::bigint,
           CASE WHEN e.status = 'success' AND piece.low >= %(sums_since)s::timestamptz THEN e.output_tokens ELSE 0 END::numeric,
           CASE WHEN e.status = 'success' AND piece.low >= %(sums_since)s::timestamptz THEN e.latency_ms ELSE 0 END::numeric,
           ARRAY[analytics.latency_bin(e.latency_ms)], ARRAY[1::bigint],
           CASE WHEN e.time_to_first_token_ms IS NULL OR piece.low < %(sums_since)s::timestamptz THEN '{}'
                ELSE ARRAY[analytics.latency_bin(e.time_to_first_token_ms)] END,
           CASE WHEN e.time_to_first_token_ms IS NULL OR piece.low < %(sums_since)s::timestamptz THEN '{}'
                ELSE ARRAY[1::bigint] END
    FROM piece
    CROSS JOIN LATERAL (
        SELECT raw.*, CASE %(dimension)s
                   WHEN '' THEN '' WHEN 'client' THEN raw.client_id WHEN 'actor' THEN raw.actor_id
                   WHEN 'apiKey' THEN raw.api_key_id WHEN 'provider' THEN raw.provider
                   WHEN 'operation' THEN raw.operation
                   WHEN 'errorCode' THEN CASE WHEN raw.status <> 'success' THEN raw.error_code END
                   ELSE raw.metadata ->> substr(%(dimension)s, length('metadata.') + 1) END COLLATE "C" AS value
        FROM analytics.usage_events raw
        WHERE raw.org_id = ANY (%(org_ids)s::uuid[])
          AND raw.occurred_at >= piece.low AND raw.occurred_at < piece.high
          AND raw.occurred_at >= %(raw_from)s::timestamptz AND raw.occurred_at < %(raw_to)s::timestamptz
          AND (NOT %(shown_only)s OR raw.batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches
                                                         WHERE rolled_up_at IS NULL))
    ) AS e
    WHERE %(with_raw)s AND piece.grain = 0 AND e.value IS NOT NULL
      AND (%(model_ids)s::text[] IS NULL OR e.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR e.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR e.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN e.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN e.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN e.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN e.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN e.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
), part AS (
    SELECT number, org_id, model_id, value,
           sum(invocations) AS invocations, sum(status_error) AS status_error,
           sum(status_timeout) AS status_timeout, sum(status_throttled) AS status_throttled,
           sum(success_output_tokens) AS success_output_tokens, sum(success_latency_ms) AS success_latency_ms,
           string_agg(array_to_string(latency_bins, ','), ',') FILTER (WHERE latency_bins <> '{}') AS latency_bins,
           string_agg(array_to_string(latency_counts, ','), ',') FILTER (WHERE latency_counts <> '{}') AS latency_counts,
           string_agg(array_to_string(first_token_bins, ','), ',') FILTER (WHERE first_token_bins <> '{}') AS first_token_bins,
           string_agg(array_to_string(first_token_counts, ','), ',') FILTER (WHERE first_token_counts <> '{}') AS first_token_counts
    FROM found
    GROUP BY number, org_id, model_id, value
)
SELECT side.bucket, org_id::text, model_id, value, side.sign,
       invocations::text, status_error::text, status_timeout::text, status_throttled::text,
       success_output_tokens::text, success_latency_ms::text,
       latency_bins, latency_counts, first_token_bins, first_token_counts
FROM part
JOIN piece USING (number)
CROSS JOIN LATERAL (VALUES (piece.plus, 1), (piece.minus, -1)) AS side (bucket, sign)
WHERE side.bucket IS NOT NULL
ORDER BY side.bucket, part.org_id, part.model_id, part.value;

-- name: largest
-- The largest groups of the one bucket that is the window, and with each what all groups of its key but the value
-- sum to (in the first row of the key): what that leaves of the sums by model has no value.
WITH piece AS MATERIALIZED (
    SELECT * FROM unnest(%(grains)s::smallint[], %(lows)s::timestamptz[], %(highs)s::timestamptz[],
                         %(plus)s::int[], %(minus)s::int[])
        WITH ORDINALITY AS piece (grain, low, high, plus, minus, number)
), winner AS MATERIALIZED (
    SELECT coalesce(org_id, %(nil)s::uuid) AS org_id, coalesce(model_id, '') AS model_id, value
    FROM unnest(%(winner_orgs)s::uuid[], %(winner_models)s::text[], %(winner_values)s::text[])
        AS winner (org_id, model_id, value)
), found AS (
    SELECT piece.number, CASE WHEN %(by_org)s THEN r.org_id END AS org_id, CASE WHEN %(by_model)s THEN r.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN r.value END AS value,
           piece.plus IS NOT NULL AS added, r.invocations, CASE %(order_by)s WHEN 'costEstimateCents' THEN r.cost_estimate_cents WHEN 'invocations' THEN r.invocations
                WHEN 'errors' THEN r.errors WHEN 'inputTokens' THEN r.input_tokens ELSE r.output_tokens END AS amount
    FROM piece
    JOIN analytics.rollups r ON r.bucket_start >= piece.low AND r.bucket_start < piece.high
    WHERE %(with_days)s AND piece.grain = 1440 AND r.grain = 1440 AND r.dimension = %(dimension)s
      AND r.org_id = ANY (%(org_ids)s::uuid[])
      AND (%(model_ids)s::text[] IS NULL OR r.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR r.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR r.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN r.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN r.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN r.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
    UNION ALL
    SELECT piece.number, CASE WHEN %(by_org)s THEN r.org_id END AS org_id, CASE WHEN %(by_model)s THEN r.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN r.value END AS value,
           piece.plus IS NOT NULL AS added, r.invocations, CASE %(order_by)s WHEN 'costEstimateCents' THEN r.cost_estimate_cents WHEN 'invocations' THEN r.invocations
                WHEN 'errors' THEN r.errors WHEN 'inputTokens' THEN r.input_tokens ELSE r.output_tokens END AS amount
    FROM piece
    JOIN analytics.rollups r ON r.bucket_start >= piece.low AND r.bucket_start < piece.high
    WHERE %(with_hours)s AND piece.grain = 60 AND r.grain = 60 AND r.dimension = %(dimension)s
      AND r.org_id = ANY (%(org_ids)s::uuid[])
      AND (%(model_ids)s::text[] IS NULL OR r.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR r.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR r.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN r.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN r.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN r.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
    UNION ALL
    SELECT piece.number, CASE WHEN %(by_org)s THEN e.org_id END AS org_id, CASE WHEN %(by_model)s THEN e.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN e.value END AS value,
           piece.plus IS NOT NULL, 1::bigint, CASE %(order_by)s WHEN 'costEstimateCents' THEN e.cost_estimate_cents WHEN 'invocations' THEN 1
                WHEN 'errors' THEN (e.status <> 'success')::int WHEN 'inputTokens' THEN e.input_tokens ELSE e.output_tokens END
    FROM piece
    CROSS JOIN LATERAL (
        SELECT raw.*, CASE %(dimension)s
                   WHEN '' THEN '' WHEN 'client' THEN raw.client_id WHEN 'actor' THEN raw.actor_id
                   WHEN 'apiKey' THEN raw.api_key_id WHEN 'provider' THEN raw.provider
                   WHEN 'operation' THEN raw.operation
                   WHEN 'errorCode' THEN CASE WHEN raw.status <> 'success' THEN raw.error_code END
                   ELSE raw.metadata ->> substr(%(dimension)s, length('metadata.') + 1) END COLLATE "C" AS value
        FROM analytics.usage_events raw
        WHERE raw.org_id = ANY (%(org_ids)s::uuid[])
          AND raw.occurred_at >= piece.low AND raw.occurred_at < piece.high
          AND raw.occurred_at >= %(raw_from)s::timestamptz AND raw.occurred_at < %(raw_to)s::timestamptz
          AND (NOT %(shown_only)s OR raw.batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches
                                                         WHERE rolled_up_at IS NULL))
    ) AS e
    WHERE %(with_raw)s AND piece.grain = 0 AND e.value IS NOT NULL
      AND (%(model_ids)s::text[] IS NULL OR e.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR e.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR e.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN e.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN e.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN e.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN e.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN e.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
), grouped AS MATERIALIZED (
    SELECT org_id, model_id, value,
           CASE WHEN %(signed)s THEN sum(CASE WHEN added THEN invocations ELSE -invocations END)
                ELSE sum(invocations) END AS invocations,
           CASE WHEN %(signed)s THEN sum(CASE WHEN added THEN amount ELSE -amount END) ELSE sum(amount) END AS amount
    FROM found
    GROUP BY org_id, model_id, value
)
(SELECT true, org_id::text, model_id, value, invocations::text, amount::text
 FROM grouped
 WHERE invocations > 0
 ORDER BY grouped.amount DESC, grouped.org_id, grouped.model_id, grouped.value
 LIMIT %(top)s)
UNION ALL
SELECT false, org_id::text, model_id, NULL, sum(invocations)::text, sum(amount)::text
FROM grouped
WHERE %(with_sums)s
GROUP BY org_id, model_id;

-- name: codes
-- The ten largest error codes by bucket and group of models, in order, and of the whole window (bucket NULL, last).
-- Groups outside the top are one.
WITH piece AS MATERIALIZED (
    SELECT * FROM unnest(%(grains)s::smallint[], %(lows)s::timestamptz[], %(highs)s::timestamptz[],
                         %(plus)s::int[], %(minus)s::int[])
        WITH ORDINALITY AS piece (grain, low, high, plus, minus, number)
), winner AS MATERIALIZED (
    SELECT coalesce(org_id, %(nil)s::uuid) AS org_id, coalesce(model_id, '') AS model_id, value
    FROM unnest(%(winner_orgs)s::uuid[], %(winner_models)s::text[], %(winner_values)s::text[])
        AS winner (org_id, model_id, value)
), found AS (
    SELECT piece.number, CASE WHEN %(by_org)s THEN r.org_id END AS org_id, CASE WHEN %(by_model)s THEN r.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN r.value END AS value,
           r.value AS code, r.invocations
    FROM piece
    JOIN analytics.rollups r ON r.bucket_start >= piece.low AND r.bucket_start < piece.high
    WHERE %(with_days)s AND piece.grain = 1440 AND r.grain = 1440 AND r.dimension = %(dimension)s
      AND r.org_id = ANY (%(org_ids)s::uuid[])
      AND (%(model_ids)s::text[] IS NULL OR r.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR r.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR r.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN r.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN r.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN r.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
    UNION ALL
    SELECT piece.number, CASE WHEN %(by_org)s THEN r.org_id END AS org_id, CASE WHEN %(by_model)s THEN r.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN r.value END AS value,
           r.value AS code, r.invocations
    FROM piece
    JOIN analytics.rollups r ON r.bucket_start >= piece.low AND r.bucket_start < piece.high
    WHERE %(with_hours)s AND piece.grain = 60 AND r.grain = 60 AND r.dimension = %(dimension)s
      AND r.org_id = ANY (%(org_ids)s::uuid[])
      AND (%(model_ids)s::text[] IS NULL OR r.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR r.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR r.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN r.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN r.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN r.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN r.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
    UNION ALL
    SELECT piece.number, CASE WHEN %(by_org)s THEN e.org_id END AS org_id, CASE WHEN %(by_model)s THEN e.model_id END AS model_id,
           CASE WHEN %(by_value)s THEN e.value END AS value,
           e.value, 1::bigint
    FROM piece
    CROSS JOIN LATERAL (
        SELECT raw.*, CASE %(dimension)s
                   WHEN '' THEN '' WHEN 'client' THEN raw.client_id WHEN 'actor' THEN raw.actor_id
                   WHEN 'apiKey' THEN raw.api_key_id WHEN 'provider' THEN raw.provider
                   WHEN 'operation' THEN raw.operation
                   WHEN 'errorCode' THEN CASE WHEN raw.status <> 'success' THEN raw.error_code END
                   ELSE raw.metadata ->> substr(%(dimension)s, length('metadata.') + 1) END COLLATE "C" AS value
        FROM analytics.usage_events raw
        WHERE raw.org_id = ANY (%(org_ids)s::uuid[])
          AND raw.occurred_at >= piece.low AND raw.occurred_at < piece.high
          AND raw.occurred_at >= %(raw_from)s::timestamptz AND raw.occurred_at < %(raw_to)s::timestamptz
          AND (NOT %(shown_only)s OR raw.batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches
                                                         WHERE rolled_up_at IS NULL))
    ) AS e
    WHERE %(with_raw)s AND piece.grain = 0 AND e.value IS NOT NULL
      AND (%(model_ids)s::text[] IS NULL OR e.model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR e.value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR e.value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN e.org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN e.model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN e.value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN e.org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN e.model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
), listed AS (
    SELECT number, org_id, model_id, code, sum(invocations) AS invocations,
           %(fold)s AND (coalesce(org_id, %(nil)s::uuid), coalesce(model_id, ''))
                        NOT IN (SELECT org_id, model_id FROM winner) AS other
    FROM found
    GROUP BY number, org_id, model_id, code
), counted AS MATERIALIZED (
    SELECT side.bucket, other, CASE WHEN NOT other THEN org_id END AS org_id,
           CASE WHEN NOT other THEN model_id END AS model_id, code, sum(side.sign * invocations) AS events
    FROM listed
    JOIN piece USING (number)
    CROSS JOIN LATERAL (VALUES (piece.plus, 1), (piece.minus, -1)) AS side (bucket, sign)
    WHERE side.bucket IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5
    HAVING sum(side.sign * invocations) <> 0
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY bucket, other, org_id, model_id ORDER BY events DESC, code) AS place
    FROM counted
)
SELECT bucket, other, org_id::text, model_id, code, events::text FROM (
    SELECT bucket, other, org_id, model_id, code, events, place FROM ranked WHERE place <= 10
    UNION ALL
    (SELECT NULL, false, NULL, NULL, code, sum(events), row_number() OVER (ORDER BY sum(events) DESC, code)
     FROM counted GROUP BY code ORDER BY sum(events) DESC, code LIMIT 10)
) AS largest
ORDER BY largest.bucket NULLS LAST, largest.other, largest.org_id, largest.model_id, largest.place;

-- name: plain_codes
-- As `codes`, by whole UTC hours or days and by model.
WITH counted AS MATERIALIZED (
    SELECT (extract(epoch FROM bucket_start - %(start)s) / (%(grain)s * 60))::int AS bucket, model_id, value AS code,
           invocations AS events
    FROM analytics.rollups
    WHERE org_id = %(org_id)s AND dimension = 'errorCode' AND grain = %(grain)s
      AND bucket_start >= %(start)s AND bucket_start < %(end)s
      AND (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]))
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY bucket, model_id ORDER BY events DESC, code) AS place FROM counted
)
SELECT bucket, false, NULL, model_id, code, events::text FROM (
    SELECT bucket, model_id, code, events, place FROM ranked WHERE place <= 10
    UNION ALL
    (SELECT NULL, NULL, code, sum(events), row_number() OVER (ORDER BY sum(events) DESC, code)
     FROM counted GROUP BY code ORDER BY sum(events) DESC, code LIMIT 10)
) AS largest
ORDER BY largest.bucket NULLS LAST, largest.model_id, largest.place;

-- name: values
-- The values of a dimension in use in a window of UTC days, largest first; of '' those are the models.
SELECT CASE %(dimension)s WHEN '' THEN model_id ELSE value END AS name, sum(invocations)::text AS invocations,
       trim_scale(sum(cost_estimate_cents))::text AS cost_estimate_cents
FROM analytics.rollups
WHERE org_id = %(org_id)s AND dimension = %(dimension)s
  AND (grain = 1440 AND bucket_start >= %(start)s AND bucket_start < %(end)s
       OR grain = 60 AND bucket_start >= greatest(%(start)s::timestamptz, %(hours_from)s::timestamptz)
       AND bucket_start < %(end)s)
  AND (%(prefix)s::text IS NULL OR starts_with(CASE %(dimension)s WHEN '' THEN model_id ELSE value END, %(prefix)s::text))
GROUP BY 1
ORDER BY sum(rollups.invocations) DESC, 1
LIMIT %(limit)s;
