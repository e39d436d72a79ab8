-- Latency histograms and the freshness view.

-- Bins of integer milliseconds with at most 1% between any value of a bin and the value it is
-- reported as (after DDSketch, Masson et al., VLDB 2019, with integer bounds instead of logarithms, so
-- that no rounding decides a bin). Bin k holds [low, high], is reported as r = low + low/100, and ends
-- at high = 100 r / 99, all in integer division: r - low <= low/100 and high - r <= high/100. Below
-- 99 ms every value has a bin of its own. shared/latency_histogram.py has the same rule.
CREATE TABLE analytics.latency_bins (
    bin     smallint PRIMARY KEY,
    low_ms  integer NOT NULL,
    high_ms integer NOT NULL,
    value_ms integer NOT NULL CHECK (value_ms BETWEEN low_ms AND high_ms)
);
INSERT INTO analytics.latency_bins (bin, low_ms, high_ms, value_ms)
WITH RECURSIVE bins (bin, low, high, value) AS (
    VALUES (0, 0::bigint, 0::bigint, 0::bigint)
    UNION ALL
    SELECT bin + 1, high + 1, 100 * ((high + 1) + (high + 1) / 100) / 99, (high + 1) + (high + 1) / 100
    FROM bins WHERE high < 2147483647
)
SELECT bin, low, least(high, 2147483647), least(value, 2147483647) FROM bins;

-- The bin of a latency, as a binary search over constants.
DO $$
BEGIN
    EXECUTE format(
        'CREATE FUNCTION analytics.latency_bin(latency_ms integer) RETURNS smallint
         LANGUAGE sql IMMUTABLE PARALLEL SAFE
         RETURN (width_bucket(latency_ms, %L::integer[]) - 1)::smallint',
        (SELECT array_agg(low_ms ORDER BY bin) FROM analytics.latency_bins));
END
$$;

-- Adds one sparse histogram to another. Appending costs a few microseconds, folding equal bins
-- together tens, so bins are folded only when the array has grown past 192 entries.
CREATE FUNCTION analytics.latency_append(
    bins smallint[], counts bigint[], more_bins smallint[], more_counts bigint[],
    OUT latency_bins smallint[], OUT latency_counts bigint[]
) LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    latency_bins := bins || more_bins;
    latency_counts := counts || more_counts;
    IF cardinality(latency_bins) > 192 THEN
        SELECT array_agg(folded.bin ORDER BY folded.bin), array_agg(folded.events ORDER BY folded.bin)
        INTO latency_bins, latency_counts
        FROM (SELECT entry.bin, sum(entry.events)::bigint AS events
              FROM unnest(latency_bins, latency_counts) AS entry (bin, events)
              GROUP BY entry.bin) AS folded;
    END IF;
END
$$;

-- Accepted events that the rollups do not show yet, by model, of one organisation or of all (NULL).
-- The bounds are read first and every call is planned for them, so that only the days that wait are
-- opened and not all 400.
CREATE FUNCTION analytics.pending_models(only_org_id uuid)
RETURNS TABLE (org_id uuid, model_id text, last_event_at timestamptz, oldest_received_at timestamptz)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    oldest timestamptz;
    newest timestamptz;
BEGIN
    SELECT min(oldest_occurred_at), max(newest_occurred_at) INTO oldest, newest
    FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL AND inserted > 0;
    IF oldest IS NULL THEN
        RETURN;
    END IF;
    IF only_org_id IS NULL THEN
        RETURN QUERY
            SELECT e.org_id, e.model_id, max(e.occurred_at), min(b.received_at)
            FROM analytics.ingestion_batches b
            JOIN analytics.usage_events e ON e.batch_id = b.batch_id
            WHERE b.rolled_up_at IS NULL AND e.occurred_at BETWEEN oldest AND newest
            GROUP BY e.org_id, e.model_id;
    ELSE
        RETURN QUERY
            SELECT e.org_id, e.model_id, max(e.occurred_at), min(b.received_at)
            FROM analytics.ingestion_batches b
            JOIN analytics.usage_events e ON e.batch_id = b.batch_id
            WHERE b.rolled_up_at IS NULL AND e.occurred_at BETWEEN oldest AND newest
              AND e.org_id = only_org_id
            GROUP BY e.org_id, e.model_id;
    END IF;
END
$$;

-- Lag is the age of the oldest accepted event that the rollups do not show: 0 when they show all, and
-- growing by itself while no worker runs. Thresholds: fresh below 5 minutes, stale below 10.
CREATE FUNCTION analytics.model_freshness_at(only_org_id uuid, as_of timestamptz)
RETURNS TABLE (org_id uuid, model_id text, last_event_at timestamptz, last_rollup_at timestamptz,
               lag_seconds double precision, status text)
LANGUAGE sql STABLE AS $$
    SELECT org_id, model_id, last_event_at, last_rollup_at, lag_seconds,
           CASE WHEN lag_seconds < 300 THEN 'fresh' WHEN lag_seconds < 600 THEN 'stale' ELSE 'delayed' END
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

CREATE VIEW analytics.freshness_status AS
    SELECT org_id, model_id, last_event_at, last_rollup_at, lag_seconds, status
    FROM analytics.model_freshness_at(NULL, clock_timestamp());
