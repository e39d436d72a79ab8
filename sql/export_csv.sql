-- name: snapshot_time
-- First statement of the snapshot: everything committed before this instant is in it.
SELECT now();

-- name: kept_since
-- Since when retention has left the rollups by model, NULL where it has left all.
SELECT max(kept_since) FROM analytics.rollup_dimensions WHERE name IN ('', 'errorCode');

-- name: hourly
-- The file of an hourly job.
COPY (
    SELECT to_char(bucket_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS bucket_start, org_id,
           analytics.spreadsheet_text(model_id) AS model_id,
           invocations, errors, trim_scale(input_tokens) AS input_tokens,
           trim_scale(output_tokens) AS output_tokens, trim_scale(cost_estimate_cents) AS cost_estimate_cents
    FROM analytics.hourly_rollups AS rollup
    WHERE org_id = %(org_id)s::uuid
      AND rollup.bucket_start >= %(window_start)s::timestamptz AND rollup.bucket_start < %(window_end)s::timestamptz
      AND (%(models)s::text[] IS NULL OR rollup.model_id = ANY (%(models)s::text[]))
    ORDER BY rollup.bucket_start, rollup.model_id
) TO STDOUT WITH (FORMAT csv, HEADER);

-- name: daily
-- The file of a daily job, as that of an hourly one.
COPY (
    SELECT to_char(bucket_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS bucket_start, org_id,
           analytics.spreadsheet_text(model_id) AS model_id,
           invocations, errors, trim_scale(input_tokens) AS input_tokens,
           trim_scale(output_tokens) AS output_tokens, trim_scale(cost_estimate_cents) AS cost_estimate_cents
    FROM analytics.daily_rollups AS rollup
    WHERE org_id = %(org_id)s::uuid
      AND rollup.bucket_start >= %(window_start)s::timestamptz AND rollup.bucket_start < %(window_end)s::timestamptz
      AND (%(models)s::text[] IS NULL OR rollup.model_id = ANY (%(models)s::text[]))
    ORDER BY rollup.bucket_start, rollup.model_id
) TO STDOUT WITH (FORMAT csv, HEADER);

-- name: monthly
-- The file of a monthly job: the days inside the window, summed by UTC month.
COPY (
    SELECT to_char(month AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS bucket_start, org_id,
           analytics.spreadsheet_text(model_id) AS model_id,
           invocations, errors, trim_scale(input_tokens) AS input_tokens,
           trim_scale(output_tokens) AS output_tokens, trim_scale(cost_estimate_cents) AS cost_estimate_cents
    FROM (
        SELECT date_trunc('month', bucket_start, 'UTC') AS month, org_id, model_id, sum(invocations) AS invocations,
               sum(errors) AS errors, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
               sum(cost_estimate_cents) AS cost_estimate_cents
        FROM analytics.daily_rollups
        WHERE org_id = %(org_id)s::uuid
          AND bucket_start >= %(window_start)s::timestamptz AND bucket_start < %(window_end)s::timestamptz
          AND (%(models)s::text[] IS NULL OR model_id = ANY (%(models)s::text[]))
        GROUP BY month, org_id, model_id
    ) AS months
    ORDER BY months.month, months.model_id
) TO STDOUT WITH (FORMAT csv, HEADER);

-- name: wait_for_the_upload
-- Lets the transaction of a file that is read bit by bit stand still for as long as its upload may.
SELECT set_config('idle_in_transaction_session_timeout', '150s', true);

-- name: stored
-- Rows of rollups that are each a group of one bucket as they stand, as `usage` has them, in the primary key's order.
SELECT 0, %(first)s + (extract(epoch FROM bucket_start - %(start)s) / (%(grain)s * 60))::int, false, NULL::text,
       model_id, CASE WHEN %(by_value)s THEN value END, invocations::text, errors::text, trim_scale(input_tokens)::text,
       trim_scale(output_tokens)::text, cost_estimate_cents::text, '0', '0', '0'
FROM analytics.rollups
WHERE org_id = %(org_id)s::uuid AND dimension = %(dimension)s AND grain = %(grain)s
  AND bucket_start >= %(start)s::timestamptz AND bucket_start < %(end)s::timestamptz
  AND (%(model_ids)s::text[] IS NULL OR model_id = ANY (%(model_ids)s::text[]))
ORDER BY bucket_start, model_id, value;
