-- name: summary
-- The largest lag, its status, the newest event and the last rollup of all models of an organisation, or of all
-- organisations (NULL), at a given instant; all NULL without events.
SELECT lag_seconds, status, last_event_at, last_rollup_at FROM analytics.freshness_at(%(org_id)s, %(as_of)s);

-- name: entries_of_org
-- The models with the newest events: newest event, last rollup, lag and status at a given instant.
SELECT model_id, last_event_at, last_rollup_at, lag_seconds, status
FROM analytics.model_freshness_at(%(org_id)s, %(as_of)s)
ORDER BY last_event_at DESC, model_id
LIMIT %(max_entries)s;

-- name: lag_by_org
-- The largest lag of each organisation that had a rollup lately or waits for one; the worst first.
SELECT org_id, max(lag_seconds) AS lag_seconds
FROM analytics.model_freshness_at(NULL, %(as_of)s)
WHERE lag_seconds > 0 OR last_rollup_at > %(active_since)s
GROUP BY org_id
ORDER BY 2 DESC, 1
LIMIT %(max_series)s;
