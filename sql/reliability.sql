-- name: size_hour
-- How many points the answer would have, and about how many histogram entries they hold: an array of n
-- smallints takes 24 + 2 n bytes, and its size is known without reading it.
SELECT count(*) AS points,
       coalesce(sum(greatest(pg_column_size(latency_bins) - 24, 2) / 2), 0)::bigint AS bins
FROM analytics.hourly_rollups
WHERE org_id = %(org_id)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text);

-- name: size_day
-- As by hour, by UTC day.
SELECT count(*) AS points,
       coalesce(sum(greatest(pg_column_size(latency_bins) - 24, 2) / 2), 0)::bigint AS bins
FROM analytics.daily_rollups
WHERE org_id = %(org_id)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text);

-- name: size_minute
-- How many points and histogram entries an answer from the raw events would have.
SELECT count(DISTINCT (minute, model_id)) AS points, count(DISTINCT (minute, model_id, bin)) AS bins
FROM (SELECT date_trunc('minute', occurred_at, 'UTC') AS minute, model_id, analytics.latency_bin(latency_ms) AS bin
      FROM analytics.usage_events
      WHERE org_id = %(org_id)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
        AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)) AS events;

-- name: hour
-- An organisation's calls by hour and model: outcomes and the latency histogram (bins may repeat).
-- Read by `fetch_points`.
DECLARE points NO SCROLL CURSOR FOR
SELECT bucket_start, model_id, invocations, status_error, status_timeout, status_throttled,
       latency_bins, latency_counts
FROM analytics.hourly_rollups
WHERE org_id = %(org_id)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
ORDER BY bucket_start, model_id;

-- name: day
-- As by hour, by UTC day.
DECLARE points NO SCROLL CURSOR FOR
SELECT bucket_start, model_id, invocations, status_error, status_timeout, status_throttled,
       latency_bins, latency_counts
FROM analytics.daily_rollups
WHERE org_id = %(org_id)s AND bucket_start >= %(start)s AND bucket_start < %(end)s
  AND (%(model_id)s::text IS NULL OR model_id = %(model_id)s::text)
ORDER BY bucket_start, model_id;

-- name: minute
-- As by hour, by minute and from the raw events, for the last hours of an incident.
DECLARE points NO SCROLL CURSOR FOR
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
SELECT bucket_start, model_id, sum(invocations)::bigint AS invocations, sum(status_error)::bigint AS status_error,
       sum(status_timeout)::bigint AS status_timeout, sum(status_throttled)::bigint AS status_throttled,
       array_agg(bin) AS latency_bins, array_agg(invocations) AS latency_counts
FROM bins
GROUP BY bucket_start, model_id
ORDER BY bucket_start, model_id;

-- name: error_codes_hour
-- The ten largest error codes of each hour and model, and of the whole window (bucket_start is
-- NULL), ordered as the points are. Read by `fetch_codes`.
DECLARE codes NO SCROLL CURSOR FOR
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
(SELECT NULL, NULL, error_code, sum(events)::bigint FROM codes GROUP BY error_code ORDER BY 4 DESC, 3 LIMIT 10)
ORDER BY 1 NULLS LAST, 2, 4 DESC, 3;

-- name: error_codes_day
-- As by hour, by UTC day.
DECLARE codes NO SCROLL CURSOR FOR
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
(SELECT NULL, NULL, error_code, sum(events)::bigint FROM codes GROUP BY error_code ORDER BY 4 DESC, 3 LIMIT 10)
ORDER BY 1 NULLS LAST, 2, 4 DESC, 3;

-- name: error_codes_minute
-- As by hour, by minute and from the raw events.
DECLARE codes NO SCROLL CURSOR FOR
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
(SELECT NULL, NULL, error_code, sum(events)::bigint FROM codes GROUP BY error_code ORDER BY 4 DESC, 3 LIMIT 10)
ORDER BY 1 NULLS LAST, 2, 4 DESC, 3;

-- name: fetch_points
-- The next points of the open cursor.
FETCH 1000 FROM points;

-- name: fetch_codes
-- The next error codes of the open cursor.
FETCH 5000 FROM codes;
