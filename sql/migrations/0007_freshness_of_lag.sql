-- The thresholds of freshness in one place, for the view's entries and for an organisation's summary.
CREATE FUNCTION analytics.freshness_of_lag(lag_seconds double precision) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN lag_seconds < 300 THEN 'fresh' WHEN lag_seconds < 600 THEN 'stale' ELSE 'delayed' END;

CREATE OR REPLACE FUNCTION analytics.model_freshness_at(only_org_id uuid, as_of timestamptz)
RETURNS TABLE (org_id uuid, model_id text, last_event_at timestamptz, last_rollup_at timestamptz,
               lag_seconds double precision, status text)
LANGUAGE sql STABLE AS $$
    SELECT org_id, model_id, last_event_at, last_rollup_at, lag_seconds, analytics.freshness_of_lag(lag_seconds)
    FROM (
        SELECT org_id, model_id, max(last_event_at) AS last_event_at, max(last_rollup_at) AS last_rollup_at,
               coalesce(greatest(extract(epoch FROM as_of - min(oldest_received_at)), 0), 0)::double precision AS lag_seconds
        FROM (
            SELECT m.org_id, m.model_id, m.last_event_at, m.last_rollup_at, NULL::timestamptz AS oldest_received_at
            FROM analytics.model_freshness m WHERE only_org_id IS NULL OR m.org_id = only_org_id
            UNION ALL
            SELECT p.org_id, p.model_id, p.last_event_at, NULL, p.oldest_received_at
            FROM analytics.pending_models(only_org_id) p
        ) AS known
        GROUP BY org_id, model_id
    ) AS lagged
$$;
