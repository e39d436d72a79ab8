-- name: count_up_to
-- How many events match, counting no further than one past the most that are wanted.
SELECT count(*) FROM (
    SELECT 1 FROM analytics.events_in_scope
    WHERE org_id = %(org_id)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
      AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
      AND (%(status)s::text IS NULL OR status = %(status)s::text)
    LIMIT %(max_rows)s + 1) AS matching;

-- name: open
-- The matching events in the order they occurred, as texts ready for a file; read by `fetch`.
DECLARE incident NO SCROLL CURSOR FOR
SELECT event_id::text, org_id::text,
       to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       to_char(received_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       analytics.spreadsheet_text(model_id), analytics.spreadsheet_text(actor_id), input_tokens, output_tokens,
       latency_ms, status, analytics.spreadsheet_text(error_code),
       trim_scale(cost_estimate_cents)::text, metadata::text
FROM analytics.events_in_scope
WHERE org_id = %(org_id)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
  AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
  AND (%(status)s::text IS NULL OR status = %(status)s::text)
ORDER BY occurred_at, event_id
LIMIT %(max_rows)s;

-- name: fetch
-- The next events of the open cursor.
FETCH 2000 FROM incident;
