-- name: hour
-- An organisation's hourly usage in [start, end), of one model or of all (NULL). Sums as text: they stay exact.
SELECT bucket_start, model_id, invocations, errors, input_tokens::text, output_tokens::text,
       trim_scale(cost_estimate_cents)::text
FROM analytics.hourly_rollups
WHERE org_id = %(org_id)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
ORDER BY bucket_start, model_id;

-- name: day
-- An organisation's daily usage in [start, end), as by hour.
SELECT bucket_start, model_id, invocations, errors, input_tokens::text, output_tokens::text,
       trim_scale(cost_estimate_cents)::text
FROM analytics.daily_rollups
WHERE org_id = %(org_id)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
ORDER BY bucket_start, model_id;
