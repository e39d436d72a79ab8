-- The percentiles of a bucket are kept beside its histogram, so that a read of many buckets need not merge bins.
-- They are those of the histogram at hand exactly where percentiles_of = invocations: whatever adds to a bucket,
-- of this release or of the one before, raises invocations, so nothing else needs to know of them. The rollup
-- worker fills them in when a bucket is over.
SET LOCAL lock_timeout = '2s';  -- a long read holds this up, and this everybody: rather give up and try again

ALTER TABLE analytics.rollups
    ADD COLUMN percentiles    integer[],  -- ms: p50, p90, p95, p99 of latency, then of time to first token
    ADD COLUMN percentiles_of bigint;     -- the invocations that they are of

-- Nearest-rank percentiles in ms (p50, p90, p95, p99) of a histogram, in which bins may repeat; NULLs of an empty
-- one. The same rule as shared/latency_histogram.py: the first bin up to which there are at least p% of the events.
-- Counts up to 2^53 are exact as float8, which adds up in half the time of numeric.
CREATE FUNCTION analytics.percentiles_ms(bins smallint[], counts bigint[]) RETURNS integer[]
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ARRAY[(SELECT value_ms FROM analytics.latency_bins WHERE bin = p50),
                 (SELECT value_ms FROM analytics.latency_bins WHERE bin = p90),
                 (SELECT value_ms FROM analytics.latency_bins WHERE bin = p95),
                 (SELECT value_ms FROM analytics.latency_bins WHERE bin = p99)]
    FROM (SELECT min(bin) FILTER (WHERE 100 * running >= 50 * total) AS p50,
                 min(bin) FILTER (WHERE 100 * running >= 90 * total) AS p90,
                 min(bin) FILTER (WHERE 100 * running >= 95 * total) AS p95,
                 min(bin) FILTER (WHERE 100 * running >= 99 * total) AS p99
          FROM (SELECT bin, sum(events::float8) OVER (ORDER BY bin ROWS UNBOUNDED PRECEDING) AS running,
                       (SELECT sum(each::float8) FROM unnest(counts) AS each) AS total
                FROM unnest(bins, counts) AS entry (bin, events)) AS counted) AS found
$$;

REVOKE ALL ON FUNCTION analytics.percentiles_ms(smallint[], bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION analytics.percentiles_ms(smallint[], bigint[])
    TO analytics_rollup_worker, analytics_gateway, analytics_export_worker;
