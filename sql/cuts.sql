-- What cuts read. A cut is read in pieces (shared/pieces.py), and its statements have these relations in common.
--
-- Whether a statement groups by organisation, model and value, and which pieces there are, is said by constants,
-- so that the planner leaves out what is not needed. Parts that few need are left out before they are sent: to plan them
-- takes half a millisecond each. Of one organisation IN is an equality, which the policy of
-- sql/migrations/0025_rollups_in_scope.sql is one with.
--
-- {number} is the type that integers are added up in: bigint, which takes half the time of numeric, and numeric where
-- PostgreSQL says that bigint is out of range (a sum above 9.2 * 10^18).

-- relation: piece
-- Which sums make up which bucket, by grain: days, hours, and raw events where no sums are kept. Each is added to
-- one bucket and taken from another.
piece AS MATERIALIZED (
    SELECT * FROM unnest(%(grains)s::smallint[], %(lows)s::timestamptz[], %(highs)s::timestamptz[],
                         %(plus)s::int[], %(minus)s::int[])
        AS piece (grain, low, high, plus, minus)
)

-- relation: winner
-- The groups of the top; value is NULL for those without one.
winner AS NOT MATERIALIZED (
    SELECT coalesce(org_id, %(nil)s::uuid) AS org_id, coalesce(model_id, '') AS model_id, value
    FROM unnest(%(winner_orgs)s::uuid[], %(winner_models)s::text[], %(winner_values)s::text[])
        AS winner (org_id, model_id, value)
)

-- relation: of_pieces
-- Where rollups with the pieces that they are in come from.
FROM piece
    JOIN analytics.rollups AS r ON r.bucket_start >= piece.low AND r.bucket_start < piece.high
    WHERE r.dimension = %(dimension)s AND org_id IN %(org_ids)s

-- relation: rollups_in_pieces
-- Rollups of the organisations in one dimension with the pieces that they are in. Which grain is said by a constant.
SELECT plus, minus, org_id, model_id, value,
           invocations, errors, input_tokens, output_tokens,
           cached_input_tokens, cache_write_input_tokens, reasoning_tokens, cost_estimate_cents
    -- part: outcomes
           , status_error, status_timeout, status_throttled, success_output_tokens, success_latency_ms,
           latency_bins, latency_counts, first_token_bins, first_token_counts
    -- end of part
    {of_pieces}

-- relation: first_halves
-- The first halves of the hours in which buckets begin or end.
{rollups_in_pieces} AND piece.grain = 30 AND r.grain = 30

-- relation: negative_first_halves
-- The same as negative hours, for what only adds up and needs no outcomes. They have the two buckets of their hours
-- then, and are grouped with them.
SELECT minus, plus, org_id, model_id, value,
           -invocations, -errors, -input_tokens, -output_tokens,
           -cached_input_tokens, -cache_write_input_tokens, -reasoning_tokens, -cost_estimate_cents
    {of_pieces} AND piece.grain = 30 AND r.grain = 30

-- relation: outcomes_of_event
-- A raw event's outcome, as a rollup of one event has it.
    -- part: outcomes
           , (status = 'error')::int::bigint, (status = 'timeout')::int::bigint, (status = 'throttled')::int::bigint,
           CASE WHEN whole AND status = 'success' THEN output_tokens ELSE 0 END::numeric,
           CASE WHEN whole AND status = 'success' THEN latency_ms ELSE 0 END::numeric,
           ARRAY[analytics.latency_bin(latency_ms)], ARRAY[1::bigint],
           CASE WHEN whole AND time_to_first_token_ms IS NOT NULL
                THEN ARRAY[analytics.latency_bin(time_to_first_token_ms)] ELSE '{}' END,
           CASE WHEN whole AND time_to_first_token_ms IS NOT NULL THEN ARRAY[1::bigint] ELSE '{}' END
    -- end of part

-- relation: stored
-- What the pieces hold of the organisations in one dimension: rollups, and raw events as rollups of one event
-- each. Outcomes are left out of statements that only add up.
stored AS (
    {rollups_in_pieces} AND %(with_days)s AND piece.grain = 1440 AND r.grain = 1440
    UNION ALL
    {rollups_in_pieces} AND %(with_hours)s AND piece.grain = 60 AND r.grain = 60
    -- part: with_halves
    UNION ALL
    {first_halves} AND %(with_halves)s
    -- part: with_raw
    UNION ALL
    SELECT plus, minus, org_id, model_id, value,
           1::bigint, (status <> 'success')::int::bigint,
           input_tokens::numeric, output_tokens::numeric,
           CASE WHEN whole THEN coalesce(cached_input_tokens, 0) ELSE 0 END::numeric,
           CASE WHEN whole THEN coalesce(cache_write_input_tokens, 0) ELSE 0 END::numeric,
           CASE WHEN whole THEN coalesce(reasoning_tokens, 0) ELSE 0 END::numeric,
           cost_estimate_cents {outcomes_of_event}
    FROM piece
    CROSS JOIN LATERAL (
        SELECT *, piece.low >= %(sums_since)s::timestamptz AS whole,
               CASE %(dimension)s
                   WHEN '' THEN '' WHEN 'client' THEN client_id WHEN 'actor' THEN actor_id
                   WHEN 'apiKey' THEN api_key_id WHEN 'provider' THEN provider WHEN 'operation' THEN operation
                   WHEN 'errorCode' THEN CASE WHEN status <> 'success' THEN error_code END
                   ELSE left(metadata ->> substr(%(dimension)s, length('metadata.') + 1), 200) END COLLATE "C" AS value
        FROM analytics.events_in_scope
        WHERE org_id IN %(org_ids)s AND occurred_at >= piece.low AND occurred_at < piece.high
          AND occurred_at >= %(raw_from)s::timestamptz AND occurred_at < %(raw_to)s::timestamptz
          AND (NOT %(shown_only)s OR batch_id <> ALL (%(waiting)s::bigint[]))
    ) AS event
    WHERE %(with_raw)s AND piece.grain = 0 AND value IS NOT NULL
    -- end of part
)

-- relation: stored_on_nodes
-- The same of organisations on several nodes of a Citus cluster, without raw events: one join, for Citus to send it to
-- the nodes with what adds it up.
stored AS (
    SELECT plus, minus, org_id, model_id, value,
           invocations, errors, status_error, status_timeout, status_throttled,
           input_tokens, output_tokens, cached_input_tokens, cache_write_input_tokens, reasoning_tokens,
           cost_estimate_cents, success_output_tokens, success_latency_ms,
           latency_bins, latency_counts, first_token_bins, first_token_counts
    FROM piece
    JOIN analytics.rollups AS r
        ON r.grain = piece.grain AND r.bucket_start >= piece.low AND r.bucket_start < piece.high
    WHERE r.dimension = %(dimension)s AND org_id IN %(org_ids)s AND r.grain = ANY (%(grains)s::smallint[])
      AND r.bucket_start >= %(first_low)s::timestamptz AND r.bucket_start < %(last_high)s::timestamptz
)

-- relation: where
WHERE

-- relation: where_of_several
-- What is always so: Citus from 13.1 on finds no row where a WHERE over what came to the coordinator is all constants.
WHERE (plus IS NOT NULL OR minus IS NOT NULL) AND

-- relation: found
-- Of that the rows that are asked for, with their groups. `pick` says which: all, those of the winners, or those
-- whose group is a winner without a value (valueless).
found AS (
    SELECT *, CASE WHEN %(by_org)s THEN org_id END AS of_org, CASE WHEN %(by_model)s THEN model_id END AS of_model,
           CASE WHEN %(by_value)s THEN value END AS of_value
    FROM stored
    {where} (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR value = ANY (%(values)s::text[]))
      AND CASE %(pick)s
              WHEN 'all' THEN true
              WHEN 'winners' THEN
                  (NOT %(by_value)s OR value = ANY (%(winner_values)s::text[]))
                  AND (CASE WHEN %(by_org)s THEN org_id ELSE %(nil)s::uuid END,
                       CASE WHEN %(by_model)s THEN model_id ELSE '' END,
                       CASE WHEN %(by_value)s THEN value ELSE '' END)
                      IN (SELECT org_id, model_id, value FROM winner WHERE value IS NOT NULL)
              ELSE (CASE WHEN %(by_org)s THEN org_id ELSE %(nil)s::uuid END,
                    CASE WHEN %(by_model)s THEN model_id ELSE '' END)
                   IN (SELECT org_id, model_id FROM winner WHERE value IS NULL)
          END
)

-- relation: ten_largest
-- Of what `counted` counts, the ten largest error codes of each bucket and group and of the whole window.
ten_largest AS (
    SELECT bucket, other, org_id, model_id, code, events, place
    FROM (SELECT *, row_number() OVER (PARTITION BY bucket, other, org_id, model_id ORDER BY events DESC, code) AS place
          FROM counted) AS ranked
    WHERE place <= 10
    UNION ALL
    (SELECT NULL, false, NULL, NULL, code, sum(events), row_number() OVER (ORDER BY sum(events) DESC, code)
     FROM counted GROUP BY code ORDER BY sum(events) DESC, code LIMIT 10)
)

-- name: kept
-- What is kept, '' being models alone: whether it may be asked for, whether hours are kept and for how long, since
-- when it is complete, until when its days hold its hours, since when retention has left them,
-- and since when first halves of hours are kept, in the hours or in a part of their own.
-- Groups are hashed in this transaction: how many rows there are depends on pieces that the planner cannot weigh.
SELECT name, groupable, keeps_hours, hours_kept, complete_since, days_until, kept_since,
       halves_since, halves_table IS NULL, moves,
       set_config('enable_sort', 'off', true), set_config('cursor_tuple_fraction', '1', true), set_config('work_mem', '16MB', true)
FROM analytics.rollup_dimensions
ORDER BY name;

-- name: see_node
-- Lets a transaction see the organisation's node of a Citus cluster as it is now, from here on.
SELECT 1 FROM analytics.rollups WHERE org_id IN %(org_ids)s AND dimension = '' AND grain = 1440 LIMIT 1;

-- name: day_moves
-- What `moves` of the models is where no hour is being added to days just now. It is not of the snapshot.
SELECT last_value FROM analytics.day_moves;

-- name: events_kept_since
-- Since when no raw events were dropped, NULL while all are there. This keeps the next days until the transaction ends.
SELECT (max(day) + 1)::timestamp AT TIME ZONE 'UTC' FROM analytics.dropped_days WHERE what = 'events';

-- name: waiting
-- The batches that no rollups show yet, as the text of an array. Raw events are read without a join to them: they are
-- of all organisations.
SELECT ARRAY(SELECT batch_id FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL AND inserted > 0)::text;

-- name: events_to_read
-- About how many raw events there are in some parts of hours, by the models' hours.
SELECT coalesce(sum(invocations * extract(epoch FROM part.high - part.low) / 3600), 0)::bigint
FROM unnest(%(lows)s::timestamptz[], %(highs)s::timestamptz[]) AS part (low, high)
JOIN analytics.rollups AS r ON r.bucket_start = date_bin('1 hour', part.low, 'epoch')
WHERE org_id IN %(org_ids)s AND dimension = '' AND grain = 60;

-- name: known
-- The organisations that have rollups, of those that are asked for (NULL: all), and how many models, and how many
-- models of organisations, there are.
SELECT array_agg(DISTINCT org_id::text), count(DISTINCT model_id), count(*)
FROM analytics.model_freshness
WHERE %(org_ids)s::uuid[] IS NULL OR org_id = ANY (%(org_ids)s::uuid[]);

-- relation: summed
-- Usage by bucket and group: what has its place in the same two buckets is summed once, and the few sums are added
-- and taken away then.
summed AS MATERIALIZED (
    SELECT bucket, false AS other, CASE WHEN %(by_org)s THEN of_org END AS org_id,
           CASE WHEN %(by_model)s THEN of_model END AS model_id, CASE WHEN %(by_value)s THEN of_value END AS value,
           analytics.total(CASE WHEN added THEN invocations ELSE -invocations END) AS invocations,
           analytics.total(CASE WHEN added THEN errors ELSE -errors END) AS errors,
           analytics.total(CASE WHEN added THEN input_tokens ELSE -input_tokens END) AS input_tokens,
           analytics.total(CASE WHEN added THEN output_tokens ELSE -output_tokens END) AS output_tokens,
           sum(CASE WHEN added THEN cost_estimate_cents ELSE -cost_estimate_cents END) AS cost_estimate_cents,
           analytics.total(CASE WHEN added THEN cached_input_tokens ELSE -cached_input_tokens END) AS cached_input_tokens,
           analytics.total(CASE WHEN added THEN cache_write_input_tokens ELSE -cache_write_input_tokens END) AS cache_write_input_tokens,
           analytics.total(CASE WHEN added THEN reasoning_tokens ELSE -reasoning_tokens END) AS reasoning_tokens
    FROM (SELECT plus, minus, of_org, of_model, of_value,
                 analytics.total(invocations::{number}) AS invocations, analytics.total(errors::{number}) AS errors,
                 analytics.total(input_tokens::{number}) AS input_tokens,
                 analytics.total(output_tokens::{number}) AS output_tokens,
                 sum(cost_estimate_cents) AS cost_estimate_cents,
                 analytics.total(cached_input_tokens::{number}) AS cached_input_tokens,
                 analytics.total(cache_write_input_tokens::{number}) AS cache_write_input_tokens,
                 analytics.total(reasoning_tokens::{number}) AS reasoning_tokens
          FROM found
          GROUP BY plus, minus, of_org, of_model, of_value) AS part
    CROSS JOIN LATERAL (VALUES (plus, true), (minus, false)) AS side (bucket, added)
    WHERE bucket IS NOT NULL
    GROUP BY 1, 3, 4, 5
    HAVING analytics.total(CASE WHEN added THEN invocations ELSE -invocations END) <> 0
)

-- relation: folded
-- Of the sums by organisation and model the largest groups, and all others as one.
largest AS MATERIALIZED (
    SELECT coalesce(org_id, %(nil)s::uuid) AS org_id, coalesce(model_id, '') AS model_id
    FROM summed
    GROUP BY summed.org_id, summed.model_id
    HAVING analytics.total(invocations) > 0
    ORDER BY sum(CASE %(order_by)s WHEN 'costEstimateCents' THEN cost_estimate_cents
                      WHEN 'invocations' THEN invocations WHEN 'errors' THEN errors
                      WHEN 'inputTokens' THEN input_tokens ELSE output_tokens END) DESC, summed.org_id, summed.model_id
    LIMIT %(top)s
), folded AS MATERIALIZED (
    SELECT bucket, other, CASE WHEN NOT other THEN org_id END AS org_id,
           CASE WHEN NOT other THEN model_id END AS model_id, NULL::text AS value,
           analytics.total(invocations) AS invocations, analytics.total(errors) AS errors, analytics.total(input_tokens) AS input_tokens,
           analytics.total(output_tokens) AS output_tokens, sum(cost_estimate_cents) AS cost_estimate_cents,
           analytics.total(cached_input_tokens) AS cached_input_tokens,
           analytics.total(cache_write_input_tokens) AS cache_write_input_tokens, analytics.total(reasoning_tokens) AS reasoning_tokens
    FROM (SELECT bucket, org_id, model_id, invocations, errors, input_tokens, output_tokens, cost_estimate_cents,
                 cached_input_tokens, cache_write_input_tokens, reasoning_tokens,
                 (coalesce(org_id, %(nil)s::uuid), coalesce(model_id, ''))
                     NOT IN (SELECT org_id, model_id FROM largest) AS other
          FROM summed) AS marked
    GROUP BY 1, 2, 3, 4
    HAVING analytics.total(invocations) <> 0
)

-- relation: figures
-- The sums of a point as JSON members, and the end of the point.
'"invocations":', invocations, ',"errors":', errors, ',"inputTokens":', input_tokens,
',"outputTokens":', output_tokens, ',"costEstimateCents":', trim_scale(cost_estimate_cents),
',"cachedInputTokens":', cached_input_tokens, ',"cacheWriteInputTokens":', cache_write_input_tokens,
',"reasoningTokens":', reasoning_tokens, '}'

-- relation: as_rows
-- A group of a bucket, its sums as texts.
bucket, other, org_id::text, model_id, value,
       invocations::text, errors::text, input_tokens::text, output_tokens::text,
       trim_scale(cost_estimate_cents)::text, cached_input_tokens::text, cache_write_input_tokens::text,
       reasoning_tokens::text

-- relation: as_json
-- The points of a bucket as JSON, and their sums.
string_agg(
           concat('{"bucketStart":"', begins, '",',
                  CASE WHEN %(by_org)s THEN '"orgId":' END, CASE WHEN %(by_org)s THEN coalesce(to_json(org_id)::text, 'null') END,
                  CASE WHEN %(by_org)s THEN ',' END,
                  CASE WHEN %(by_model)s THEN '"modelId":' END, CASE WHEN %(by_model)s THEN coalesce(to_json(model_id)::text, 'null') END,
                  CASE WHEN %(by_model)s THEN ',' END,
                  CASE WHEN %(by_value)s THEN %(member)s END, CASE WHEN %(by_value)s THEN coalesce(to_json(value)::text, 'null') END,
                  CASE WHEN %(by_value)s THEN ',' END,
                  CASE WHEN other THEN '"other":true,' END, {figures}),
           ',' ORDER BY other, CASE WHEN %(by_org)s THEN org_id END, CASE WHEN %(by_model)s THEN model_id END,
                        CASE WHEN %(by_value)s THEN value END),
       analytics.total(invocations)::text, analytics.total(errors)::text, analytics.total(input_tokens)::text,
       analytics.total(output_tokens)::text, sum(cost_estimate_cents),
       analytics.total(cached_input_tokens)::text, analytics.total(cache_write_input_tokens)::text,
       analytics.total(reasoning_tokens)::text

-- relation: begin
-- The texts of the buckets' begins.
begin AS MATERIALIZED (
    SELECT begins, (number - 1)::int AS bucket FROM unnest(%(begins)s::text[]) WITH ORDINALITY AS begin (begins, number)
)

-- name: plain_usage
-- Usage by whole UTC hours or days and by model: each bucket's points as JSON, how many they are, and their sums.
-- Each stored row is a point as it stands, so nothing is added up but the totals.
SELECT count(*),
       string_agg(
           concat('{"bucketStart":"', to_char(bucket_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                  '","modelId":', to_json(model_id), ',', {figures}),
           ',' ORDER BY model_id),
       sum(invocations)::text, sum(errors)::text, sum(input_tokens)::text, sum(output_tokens)::text,
       sum(cost_estimate_cents), sum(cached_input_tokens)::text,
       sum(cache_write_input_tokens)::text, sum(reasoning_tokens)::text
FROM analytics.rollups
WHERE org_id = %(org_id)s AND dimension = '' AND grain = %(grain)s
  AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]))
GROUP BY bucket_start
ORDER BY bucket_start;

-- name: plain_size
-- How many points plain_usage or plain_reliability would have, and of how many no percentiles are kept.
SELECT count(*) AS points, count(*) FILTER (WHERE percentiles_of IS DISTINCT FROM invocations) AS changed
FROM analytics.rollups
WHERE org_id = %(org_id)s AND dimension = '' AND grain = %(grain)s
  AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]));

-- name: plain_reliability
-- Reliability by whole UTC hours or days and by model: each bucket's points as JSON, with their percentiles as they
-- are kept, or computed where they are not.
WITH coded AS MATERIALIZED (
    SELECT bucket_start, model_id,
           array_to_string((array_agg(concat('{"errorCode":', to_json(value), ',"count":', invocations, '}')
                                      ORDER BY invocations DESC, value))[1:10], ',') AS codes
    FROM analytics.rollups
    WHERE org_id = %(org_id)s AND dimension = 'errorCode' AND grain = %(grain)s
      AND bucket_start >= %(start)s AND bucket_start < %(end)s
      AND (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]))
    GROUP BY bucket_start, model_id
), point AS (
    SELECT *, CASE WHEN percentiles_of = invocations THEN percentiles
                   ELSE analytics.percentiles_ms(latency_bins, latency_counts)
                        || analytics.percentiles_ms(first_token_bins, first_token_counts) END AS ms
    FROM analytics.rollups
    WHERE org_id = %(org_id)s AND dimension = '' AND grain = %(grain)s
      AND bucket_start >= %(start)s AND bucket_start < %(end)s
      AND (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]))
    OFFSET 0  -- computes `ms` once a point, not once for each use of it
)
SELECT string_agg(
           concat('{"bucketStart":"', to_char(bucket_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                  '","modelId":', to_json(model_id), ',"invocations":', invocations, ',"errors":', errors,
                  ',"errorRate":', errors::float8 / invocations,
                  ',"latencyMs":{"p50":', ms[1], ',"p95":', ms[3], ',"p99":', ms[4],
                  '},"errorsByStatus":{"error":', status_error, ',"timeout":', status_timeout,
                  ',"throttled":', status_throttled, '},"errorCodes":[', codes,
                  '],"timeToFirstTokenMs":{"p50":', coalesce(ms[5]::text, 'null'),
                  ',"p95":', coalesce(ms[7]::text, 'null'), ',"p99":', coalesce(ms[8]::text, 'null'),
                  '},"outputTokensPerSecond":',
                  coalesce(((success_output_tokens * 1000)::float8 / nullif(success_latency_ms, 0)::float8)::text, 'null'),
                  ',"latencyPercentileMs":' || ms[%(percentile_at)s], '}'),
           ',' ORDER BY model_id)
FROM point LEFT JOIN coded USING (bucket_start, model_id)
GROUP BY bucket_start
ORDER BY bucket_start;

-- name: plain_histograms
-- Reliability by whole UTC hours or days and by model, as `reliability` has it, in the order of the primary key.
SELECT (extract(epoch FROM bucket_start - %(start)s) / (%(grain)s * 60))::int, NULL::text, model_id, NULL, 1,
       invocations, status_error, status_timeout, status_throttled, success_output_tokens, success_latency_ms,
       array_to_string(latency_bins, ','), array_to_string(latency_counts, ','), array_to_string(first_token_bins, ','), array_to_string(first_token_counts, ',')
FROM analytics.rollups
WHERE org_id = %(org_id)s AND dimension = '' AND grain = %(grain)s
  AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]))
ORDER BY bucket_start, model_id;

-- relation: texts
-- The histograms of a group as texts.
string_agg(array_to_string(latency_bins, ','), ',') FILTER (WHERE latency_bins <> '{}') AS latency_bins,
           string_agg(array_to_string(latency_counts, ','), ',') FILTER (WHERE latency_counts <> '{}') AS latency_counts,
           string_agg(array_to_string(first_token_bins, ','), ',') FILTER (WHERE first_token_bins <> '{}') AS first_token_bins,
           string_agg(array_to_string(first_token_counts, ','), ',') FILTER (WHERE first_token_counts <> '{}') AS first_token_counts

-- relation: texts_on_nodes
-- The same: Citus makes arrays on the nodes, and no texts.
array_to_string(array_agg(array_to_string(latency_bins, ',')) FILTER (WHERE latency_bins <> '{}'), ',') AS latency_bins,
           array_to_string(array_agg(array_to_string(latency_counts, ',')) FILTER (WHERE latency_counts <> '{}'), ',') AS latency_counts,
           array_to_string(array_agg(array_to_string(first_token_bins, ',')) FILTER (WHERE first_token_bins <> '{}'), ',') AS first_token_bins,
           array_to_string(array_agg(array_to_string(first_token_counts, ',')) FILTER (WHERE first_token_counts <> '{}'), ',') AS first_token_counts

-- name: usage
-- Usage by bucket and group, in order; with every row goes how many there are in all.
WITH {piece}, {winner}, {stored}, {found}, {summed}
SELECT (SELECT count(*) FROM summed), {as_rows}
FROM summed
ORDER BY bucket, summed.org_id, model_id, value;

-- name: usage_json
-- The same as JSON, a row for each bucket, for cuts whose groups are all there is.
WITH {piece}, {winner}, {stored}, {found}, {summed}, {begin}
SELECT (SELECT count(*) FROM summed), {as_json}
FROM summed JOIN begin USING (bucket)
GROUP BY bucket
ORDER BY bucket;

-- name: usage_of_top
-- As `usage`, in one pass, of the largest groups and of all others as one; for cuts by organisation and model alone.
WITH {piece}, {winner}, {stored}, {found}, {summed}, {folded}
SELECT (SELECT count(*) FROM folded), {as_rows}
FROM folded
ORDER BY bucket, other, folded.org_id, model_id;

-- name: usage_of_top_json
-- The same as JSON.
WITH {piece}, {winner}, {stored}, {found}, {summed}, {folded}, {begin}
SELECT (SELECT count(*) FROM folded), {as_json}
FROM folded JOIN begin USING (bucket)
GROUP BY bucket
ORDER BY bucket;

-- name: reliability
-- Reliability by bucket and group, in order. Histograms are texts, numbers separated by commas: that is read in half
-- the time of arrays' bytes. Rows of one group may be several, and their signs are for the reader.
WITH {piece}, {winner}, {stored}, {found}, part AS (
    SELECT plus, minus, of_org, of_model, of_value,
           sum(invocations) AS invocations, sum(status_error) AS status_error,
           sum(status_timeout) AS status_timeout, sum(status_throttled) AS status_throttled,
           sum(success_output_tokens) AS success_output_tokens, sum(success_latency_ms) AS success_latency_ms,
           {texts}
    FROM found
    GROUP BY plus, minus, of_org, of_model, of_value
)
SELECT bucket, of_org::text, of_model, of_value, sign,
       invocations::text, status_error::text, status_timeout::text, status_throttled::text,
       success_output_tokens::text, success_latency_ms::text,
       latency_bins, latency_counts, first_token_bins, first_token_counts
FROM part
CROSS JOIN LATERAL (VALUES (plus, 1), (minus, -1)) AS side (bucket, sign)
WHERE bucket IS NOT NULL
ORDER BY bucket, part.of_org, of_model, of_value;

-- relation: amount
-- What the largest groups are the largest by, as an integer: costs have ten decimals.
CASE %(order_by)s WHEN 'costEstimateCents' THEN (cost_estimate_cents * 10000000000)::{number}
                WHEN 'invocations' THEN invocations::{number} WHEN 'errors' THEN errors::{number}
                WHEN 'inputTokens' THEN input_tokens::{number} ELSE output_tokens::{number} END AS amount

-- relation: asked
-- Those of the models and values that are asked for.
(%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]))
      AND (%(values)s::text[] IS NULL OR value = ANY (%(values)s::text[]))

-- relation: whole_days
-- The days of the window, which are one piece: read without a join, since there may be hundreds of thousands of rows.
analytics.rollups
    WHERE %(whole_days)s AND dimension = %(dimension)s AND grain = 1440 AND org_id IN %(org_ids)s
      AND bucket_start >= %(first_day)s::timestamptz AND bucket_start < %(last_day)s::timestamptz

-- relation: measured
-- What groups are the largest by.
measured AS (
    SELECT org_id, model_id, value, true AS added, invocations::{number} AS calls, {amount}
    FROM {whole_days}
    UNION ALL
    SELECT org_id, model_id, value, plus IS NOT NULL, invocations::{number}, {amount} FROM stored
)

-- relation: measured_on_nodes
-- The same with the days among the pieces, for stored_on_nodes.
measured AS (
    SELECT org_id, model_id, value, plus IS NOT NULL AS added, invocations::{number} AS calls, {amount} FROM stored
)

-- name: largest
-- The largest groups of the one bucket that is the window, and with each what all groups of its key but the value
-- sum to (in the first row of the key): what that leaves of the sums by model has no value.
WITH {piece}, {stored}, {measured}, grouped AS MATERIALIZED (
    SELECT CASE WHEN %(by_org)s THEN org_id END AS of_org, CASE WHEN %(by_model)s THEN model_id END AS of_model,
           CASE WHEN %(by_value)s THEN value END AS of_value,
           analytics.total(CASE WHEN NOT %(signed)s OR added THEN calls ELSE -calls END) AS calls,
           analytics.total(CASE WHEN NOT %(signed)s OR added THEN amount ELSE -amount END) AS amount
    FROM measured
    WHERE {asked}
    GROUP BY 1, 2, 3
)
(SELECT true, of_org::text, of_model, of_value, calls, amount
 FROM grouped
 WHERE calls > 0
 ORDER BY grouped.amount DESC, grouped.of_org, of_model, of_value
 LIMIT %(top)s)
UNION ALL
SELECT false, of_org::text, of_model, NULL, analytics.total(calls), analytics.total(amount)
FROM grouped
WHERE %(with_sums)s
GROUP BY of_org, of_model;

-- name: largest_values
-- The same of one organisation where the value alone makes the group, first what all sum to. That comes of the same
-- pass, and nothing is kept of the groups but the largest.
-- Two connections may do it side by side, each for half of the values.
WITH {piece}, {stored}, measured AS (
    SELECT value, invocations::{number} AS calls, {amount}
    FROM {whole_days} AND {asked}
    UNION ALL
    SELECT value, CASE WHEN added THEN calls ELSE -calls END, CASE WHEN added THEN amount ELSE -amount END
    FROM (SELECT value, plus IS NOT NULL AS added, invocations::{number} AS calls, {amount} FROM stored WHERE {asked}) AS part
)
SELECT GROUPING(value) = 0, NULL, NULL, value, analytics.total(calls), analytics.total(amount)
FROM measured
WHERE %(half)s::bool IS NULL OR (hashtext(value) >= 0) = %(half)s::bool
GROUP BY GROUPING SETS ((value), ())
HAVING GROUPING(value) = 1 OR analytics.total(calls) > 0
ORDER BY GROUPING(value) DESC, analytics.total(amount) DESC, value
LIMIT %(top)s + 1;

-- name: codes
-- The ten largest error codes by bucket and group of models, in order, and of the whole window (bucket NULL, last).
-- Groups outside the top are one.
WITH {piece}, {winner}, {stored}, {found}, listed AS (
    SELECT plus, minus, of_org, of_model, value AS code, sum(invocations) AS invocations
    FROM found
    GROUP BY plus, minus, of_org, of_model, value
), counted AS MATERIALIZED (
    SELECT bucket, other, CASE WHEN NOT other THEN of_org END AS org_id,
           CASE WHEN NOT other THEN of_model END AS model_id, code, sum(sign * invocations) AS events
    FROM (SELECT *, %(fold)s AND (coalesce(of_org, %(nil)s::uuid), coalesce(of_model, ''))
                                NOT IN (SELECT org_id, model_id FROM winner) AS other
          FROM listed) AS marked
    CROSS JOIN LATERAL (VALUES (plus, 1), (minus, -1)) AS side (bucket, sign)
    WHERE bucket IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5
    HAVING sum(sign * invocations) <> 0
), {ten_largest}
SELECT bucket, other, org_id::text, model_id, code, events::text
FROM ten_largest
ORDER BY bucket NULLS LAST, other, ten_largest.org_id, model_id, place;

-- name: plain_codes
-- As `codes`, by whole UTC hours or days and by model.
WITH counted AS MATERIALIZED (
    SELECT (extract(epoch FROM bucket_start - %(start)s) / (%(grain)s * 60))::int AS bucket, false AS other,
           NULL::uuid AS org_id, model_id, value AS code, invocations AS events
    FROM analytics.rollups
    WHERE org_id = %(org_id)s AND dimension = 'errorCode' AND grain = %(grain)s
      AND bucket_start >= %(start)s AND bucket_start < %(end)s
      AND (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]))
), {ten_largest}
SELECT bucket, other, org_id::text, model_id, code, events::text
FROM ten_largest
ORDER BY bucket NULLS LAST, other, ten_largest.org_id, model_id, place;

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
