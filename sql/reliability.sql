-- name: hour
-- An organisation's calls by hour and model: outcomes and the latency histogram (bins may repeat).
SELECT bucket_start, model_id, invocations, status_error, status_timeout, status_throttled,
       latency_bins, latency_counts
FROM analytics.hourly_rollups
WHERE org_id = %(org_id)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
ORDER BY bucket_start, model_id;

-- name: day
-- As by hour, by UTC day.
SELECT bucket_start, model_id, invocations, status_error, status_timeout, status_throttled,
       latency_bins, latency_counts
FROM analytics.daily_rollups
WHERE org_id = %(org_id)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
ORDER BY bucket_start, model_id;

-- name: minute
-- As by hour, by minute and from the raw events, for the last hours of an incident.
WITH bins AS (
    SELECT date_trunc('minute', occurred_at, 'UTC') AS bucket_start, model_id,
           analytics.latency_bin(latency_ms) AS bin, count(*) AS invocations,
           count(*) FILTER (WHERE status = 'error') AS status_error,
           count(*) FILTER (WHERE status = 'timeout') AS status_timeout,
           count(*) FILTER (WHERE status = 'throttled') AS status_throttled
    FROM analytics.usage_events
    WHERE org_id = %(org_id)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
      AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
    GROUP BY 1, 2, 3
)
SELECT bucket_start, model_id, sum(invocations)::bigint, sum(status_error)::bigint,
       sum(status_timeout)::bigint, sum(status_throttled)::bigint, array_agg(bin), array_agg(invocations)
FROM bins
GROUP BY bucket_start, model_id
ORDER BY bucket_start, model_id;

-- name: error_codes_hour
-- The ten largest error codes of each hour and model, and of the whole window (bucket_start is NULL).
WITH codes AS (
    SELECT bucket_start, model_id, error_code, events
    FROM analytics.hourly_error_codes
    WHERE org_id = %(org_id)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
      AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
), ranked AS (
    SELECT bucket_start, model_id, error_code, events,
           row_number() OVER (PARTITION BY bucket_start, model_id ORDER BY events DESC, error_code) AS place
    FROM codes
)
SELECT bucket_start, model_id, error_code, events FROM ranked WHERE place <= 10
UNION ALL
(SELECT NULL, NULL, error_code, sum(events)::bigint FROM codes GROUP BY error_code ORDER BY 4 DESC, 3 LIMIT 10);

-- name: error_codes_day
-- As by hour, by UTC day.
WITH codes AS (
    SELECT bucket_start, model_id, error_code, events
    FROM analytics.daily_error_codes
    WHERE org_id = %(org_id)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
      AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
), ranked AS (
    SELECT bucket_start, model_id, error_code, events,
           row_number() OVER (PARTITION BY bucket_start, model_id ORDER BY events DESC, error_code) AS place
    FROM codes
)
SELECT bucket_start, model_id, error_code, events FROM ranked WHERE place <= 10
UNION ALL
(SELECT NULL, NULL, error_code, sum(events)::bigint FROM codes GROUP BY error_code ORDER BY 4 DESC, 3 LIMIT 10);

-- name: error_codes_minute
-- As by hour, by minute and from the raw events.
WITH codes AS (
    SELECT date_trunc('minute', occurred_at, 'UTC') AS bucket_start, model_id, error_code, count(*) AS events
    FROM analytics.usage_events
    WHERE org_id = %(org_id)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
      AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
      AND status <> 'success' AND error_code IS NOT NULL
    GROUP BY 1, 2, 3
), ranked AS (
    SELECT bucket_start, model_id, error_code, events,
           row_number() OVER (PARTITION BY bucket_start, model_id ORDER BY events DESC, error_code) AS place
    FROM codes
)
SELECT bucket_start, model_id, error_code, events FROM ranked WHERE place <= 10
UNION ALL
(SELECT NULL, NULL, error_code, sum(events)::bigint FROM codes GROUP BY error_code ORDER BY 4 DESC, 3 LIMIT 10);
