-- name: freshness_of_org
-- Each model's newest event, last rollup, lag and status at a given instant.
SELECT model_id, last_event_at, last_rollup_at, lag_seconds, status
FROM analytics.model_freshness_at(%(org_id)s, %(as_of)s)
ORDER BY model_id;

-- name: lag_by_org
-- The largest lag of each organisation that had a rollup lately or waits for one; the worst first.
SELECT org_id, max(lag_seconds)
FROM analytics.model_freshness_at(NULL, %(as_of)s)
WHERE lag_seconds > 0 OR last_rollup_at > %(active_since)s
GROUP BY org_id
ORDER BY 2 DESC, 1
LIMIT %(most_series)s;
