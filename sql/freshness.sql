-- name: summary
-- The largest lag, its status, the newest event and the last rollup of all models of an organisation, or of all
-- organisations (NULL), at a given instant; all NULL without events.
SELECT lag_seconds, CASE WHEN last_event_at IS NOT NULL THEN analytics.freshness_of_lag(lag_seconds) END AS status,
       last_event_at, last_rollup_at
FROM (
    SELECT greatest(rolled_up.last_event_at, pending.last_event_at) AS last_event_at, rolled_up.last_rollup_at,
           CASE WHEN pending.oldest_received_at IS NOT NULL
                THEN greatest(extract(epoch FROM %(as_of)s - pending.oldest_received_at), 0)
                WHEN rolled_up.last_event_at IS NOT NULL THEN 0 END::double precision AS lag_seconds
    FROM (SELECT max(last_event_at) AS last_event_at, max(last_rollup_at) AS last_rollup_at
          FROM analytics.model_freshness WHERE %(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid) AS rolled_up,
         (SELECT max(last_event_at) AS last_event_at, min(oldest_received_at) AS oldest_received_at
          FROM analytics.pending_models(%(org_id)s::uuid)) AS pending
) AS lagged;

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
