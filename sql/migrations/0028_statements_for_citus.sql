-- What a Citus cluster does not take, said so that it does; on one server all is as before. There, a function that
-- reads a distributed table must be in PL/pgSQL and called from a statement that reads none, a function that is handed
-- to other nodes must read no table of the coordinator's, and rows are found by their key and not by their place.
SET LOCAL lock_timeout = '2s';  -- a long read holds this up, and this everybody: rather give up and try again

-- The value in ms that a bin is reported as: latency_bins.value_ms as constants.
DO $$
BEGIN
    EXECUTE format(
        'CREATE FUNCTION analytics.latency_value(bin smallint) RETURNS integer
         LANGUAGE sql IMMUTABLE PARALLEL SAFE
         RETURN (%L::integer[])[bin + 1]',
        (SELECT array_agg(value_ms ORDER BY bin) FROM analytics.latency_bins));
END
$$;

-- As before.
CREATE OR REPLACE FUNCTION analytics.percentiles_ms(bins smallint[], counts bigint[]) RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ARRAY[analytics.latency_value(p50), analytics.latency_value(p90),
                 analytics.latency_value(p95), analytics.latency_value(p99)]
    FROM (SELECT min(bin) FILTER (WHERE 100 * running >= 50 * total) AS p50,
                 min(bin) FILTER (WHERE 100 * running >= 90 * total) AS p90,
                 min(bin) FILTER (WHERE 100 * running >= 95 * total) AS p95,
                 min(bin) FILTER (WHERE 100 * running >= 99 * total) AS p99
          FROM (SELECT bin, sum(events::float8) OVER (ORDER BY bin ROWS UNBOUNDED PRECEDING) AS running,
                       (SELECT sum(each::float8) FROM unnest(counts) AS each) AS total
                FROM unnest(bins, counts) AS entry (bin, events)) AS counted) AS found
$$;

-- As before: each model's freshness, of one organisation or of all (NULL).
CREATE OR REPLACE FUNCTION analytics.model_freshness_at(only_org_id uuid, as_of timestamptz)
RETURNS TABLE (org_id uuid, model_id text, last_event_at timestamptz, last_rollup_at timestamptz,
               lag_seconds double precision, status text)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    pending_orgs uuid[];
    pending_models text[];
    pending_events timestamptz[];
    pending_receipts timestamptz[];
BEGIN
    SELECT array_agg(org_id), array_agg(model_id), array_agg(last_event_at), array_agg(oldest_received_at)
    INTO pending_orgs, pending_models, pending_events, pending_receipts
    FROM analytics.pending_models(only_org_id);
    RETURN QUERY
        SELECT org_id, model_id, last_event_at, last_rollup_at, lag_seconds, analytics.freshness_of_lag(lag_seconds)
        FROM (
            SELECT org_id, model_id, max(last_event_at) AS last_event_at, max(last_rollup_at) AS last_rollup_at,
                   coalesce(greatest(extract(epoch FROM as_of - min(oldest_received_at)), 0), 0)::double precision AS lag_seconds
            FROM (
                SELECT m.org_id, m.model_id, m.last_event_at, m.last_rollup_at, NULL::timestamptz AS oldest_received_at
                FROM analytics.model_freshness m WHERE only_org_id IS NULL OR m.org_id = only_org_id
                UNION ALL
                SELECT p.org_id, p.model_id, p.last_event_at, NULL, p.oldest_received_at
                FROM unnest(pending_orgs, pending_models, pending_events, pending_receipts)
                    AS p (org_id, model_id, last_event_at, oldest_received_at)
            ) AS known
            GROUP BY org_id, model_id
        ) AS lagged;
END
$$;

-- The largest lag, its status, the newest event and the last rollup of all models of an organisation, or of all
-- organisations (NULL), at a given instant; all NULL without events.
CREATE FUNCTION analytics.freshness_at(
    only_org_id uuid, as_of timestamptz,
    OUT lag_seconds double precision, OUT status text, OUT last_event_at timestamptz, OUT last_rollup_at timestamptz
) LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    known_event timestamptz;
    pending_event timestamptz;
    pending_receipt timestamptz;
BEGIN
    SELECT max(last_event_at), max(last_rollup_at) INTO known_event, last_rollup_at
    FROM analytics.model_freshness WHERE only_org_id IS NULL OR org_id = only_org_id;
    SELECT max(last_event_at), min(oldest_received_at) INTO pending_event, pending_receipt
    FROM analytics.pending_models(only_org_id);
    last_event_at := greatest(known_event, pending_event);
    lag_seconds := CASE WHEN pending_receipt IS NOT NULL THEN greatest(extract(epoch FROM as_of - pending_receipt), 0)
                        WHEN known_event IS NOT NULL THEN 0 END;
    status := CASE WHEN last_event_at IS NOT NULL THEN analytics.freshness_of_lag(lag_seconds) END;
END
$$;

-- Names the organisation that the transaction may see (sql/scope.sql).
CREATE FUNCTION analytics.set_scope(org_id uuid) RETURNS text
LANGUAGE sql AS $$
    SELECT pg_catalog.set_config('analytics.scope', org_id::text, true);
$$;

-- How far hours were added to days, once an hour: a number that everybody sees at once, and the same in the row that
-- the adding changes. Where they differ, the days on the nodes of a cluster may hold more than that row says, or less
-- (rollup_worker/spread.py). NULL on one server, which has snapshots.
CREATE SEQUENCE analytics.day_moves MINVALUE 0 START 0;
ALTER TABLE analytics.rollup_dimensions ADD COLUMN moves bigint;

-- As before: makes a part of the rollups. Hours of dimensions have no key, so shards of them move to another node, while
-- rows are deleted, by whole rows. On one server this changes nothing unless wal_level is logical.
CREATE OR REPLACE FUNCTION analytics.add_rollup_part(of_dimension text, of_grain integer, part text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Made first and attached then: to be made as a part would lock the whole table against readers.
    EXECUTE format('CREATE TABLE analytics.%I (LIKE analytics.rollups INCLUDING ALL,
                        CONSTRAINT %I CHECK (dimension = %L AND grain = %s)
                    ) WITH (fillfactor = %s, autovacuum_vacuum_scale_factor = 0.05)',
                   part, part || '_part', of_dimension, of_grain, CASE of_grain WHEN 60 THEN 100 ELSE 90 END);
    IF of_grain = 60 THEN
        EXECUTE format('CREATE INDEX %I ON analytics.%I (org_id, bucket_start)', part || '_org', part);
        EXECUTE format('ALTER TABLE analytics.%I REPLICA IDENTITY FULL', part);
    ELSE
        EXECUTE format('ALTER TABLE analytics.%I ADD PRIMARY KEY (org_id, bucket_start, model_id, value)', part);
    END IF;
    EXECUTE format('ALTER TABLE analytics.%I
                        ALTER dimension SET DEFAULT %L, ALTER grain SET DEFAULT %s,
                        ALTER latency_bins SET STORAGE EXTERNAL, ALTER latency_counts SET STORAGE EXTERNAL,
                        ALTER first_token_bins SET STORAGE EXTERNAL, ALTER first_token_counts SET STORAGE EXTERNAL',
                   part, of_dimension, of_grain);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON analytics.%I TO analytics_rollup_worker', part);
    EXECUTE format('ALTER TABLE analytics.rollups ATTACH PARTITION analytics.%I FOR VALUES FROM (%L, %s) TO (%L, %s)',
                   part, of_dimension, of_grain, of_dimension, of_grain + 1);
END
$$;

DO $$
DECLARE
    part text;
BEGIN
    FOR part IN SELECT hours_table FROM analytics.rollup_dimensions WHERE groupable LOOP
        EXECUTE format('ALTER TABLE analytics.%I REPLICA IDENTITY FULL', part);
    END LOOP;
END
$$;

-- As before: creates the daily partitions that are missing.
CREATE OR REPLACE FUNCTION analytics.create_event_partitions(from_day date, to_day date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    day date;
    created integer := 0;
    partition_name text;
    day_start timestamptz;
BEGIN
    IF to_regclass('analytics.usage_events_default') IS NULL THEN
        RETURN 0;  -- TimescaleDB makes its chunks itself
    END IF;
    -- One at a time; the worker that comes second finds the work done.
    PERFORM pg_advisory_xact_lock(hashtext('analytics.create_event_partitions'));
    FOR day IN SELECT generate_series(from_day, to_day, interval '1 day')::date LOOP
        partition_name := 'usage_events_' || to_char(day, 'YYYYMMDD');
        day_start := day::timestamp AT TIME ZONE 'UTC';
        CONTINUE WHEN to_regclass('analytics.' || partition_name) IS NOT NULL;
        CONTINUE WHEN EXISTS (SELECT 1 FROM analytics.usage_events_default
                              WHERE occurred_at >= day_start AND occurred_at < day_start + interval '1 day');
        EXECUTE format('CREATE TABLE analytics.%I PARTITION OF analytics.usage_events FOR VALUES FROM (%L) TO (%L)',
                       partition_name, day_start, day_start + interval '1 day');
        created := created + 1;
    END LOOP;
    RETURN created;
END
$$;

-- As before: removes raw events older than the retention.
CREATE OR REPLACE FUNCTION analytics.drop_expired_events(
    retention interval, as_of timestamptz, max_rows integer,
    OUT dropped_partitions integer, OUT deleted_rows bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    cutoff timestamptz := date_trunc('day', least(as_of, now()) - greatest(retention, interval '0'), 'UTC');
    native boolean := to_regclass('analytics.usage_events_default') IS NOT NULL;
    expired text[];
    name text;
    holds_events boolean := false;
    gone date[];
BEGIN
    dropped_partitions := 0;
    deleted_rows := 0;
    IF EXISTS (SELECT FROM analytics.ingestion_batches
               WHERE rolled_up_at IS NULL AND inserted > 0 AND oldest_occurred_at < cutoff) THEN
        RETURN;
    END IF;
    -- Nothing to drop is found without a lock that anybody could wait behind.
    IF native THEN
        SELECT EXISTS (SELECT 1 FROM analytics.usage_events_default WHERE occurred_at < cutoff) INTO holds_events;
    END IF;
    IF cardinality(analytics.expired_event_parts(cutoff)) = 0 AND NOT holds_events THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('analytics.create_event_partitions'));
    LOCK TABLE analytics.dropped_days IN ACCESS EXCLUSIVE MODE;
    expired := analytics.expired_event_parts(cutoff);  -- another worker may have been at it
    IF native THEN
        WITH gone AS (
            DELETE FROM analytics.usage_events_default AS event
            USING (SELECT org_id, occurred_at, event_id FROM analytics.usage_events_default
                   WHERE occurred_at < cutoff
                     AND batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL)
                   LIMIT max_rows) AS old
            WHERE event.org_id = old.org_id AND event.occurred_at = old.occurred_at AND event.event_id = old.event_id
            RETURNING (event.occurred_at AT TIME ZONE 'UTC')::date AS day
        )
        SELECT count(*), array_agg(DISTINCT day) INTO deleted_rows, gone FROM gone;
        INSERT INTO analytics.dropped_days (day, what) SELECT day, 'events' FROM unnest(gone) AS day
        ON CONFLICT DO NOTHING;
        IF deleted_rows >= max_rows OR cardinality(expired) = 0 THEN
            RETURN;
        END IF;
        -- In the order in which everybody else takes them, so that nobody waits in a circle.
        LOCK TABLE ONLY analytics.usage_events IN ACCESS EXCLUSIVE MODE;
        FOREACH name IN ARRAY expired LOOP
            EXECUTE format('SELECT EXISTS (SELECT 1 FROM analytics.%I)', name) INTO holds_events;
            IF holds_events THEN
                INSERT INTO analytics.dropped_days (day, what) VALUES (to_date(right(name, 8), 'YYYYMMDD'), 'events')
                ON CONFLICT DO NOTHING;
            END IF;
            EXECUTE format('DROP TABLE analytics.%I', name);
        END LOOP;
        dropped_partitions := cardinality(expired);
    ELSE
        INSERT INTO analytics.dropped_days (day, what)
        SELECT DISTINCT day::date, 'events'
        FROM timescaledb_information.chunks,
             generate_series(range_start AT TIME ZONE 'UTC', range_end AT TIME ZONE 'UTC' - interval '1 microsecond',
                             interval '1 day') AS day
        WHERE hypertable_schema = 'analytics' AND hypertable_name = 'usage_events' AND range_end <= cutoff
        ON CONFLICT DO NOTHING;
        SELECT count(*) INTO dropped_partitions
        FROM public.drop_chunks('analytics.usage_events', older_than => cutoff);
    END IF;
    -- Nobody else can write events now. A batch that came since the first look undoes it all.
    IF dropped_partitions > 0 AND EXISTS (
            SELECT FROM analytics.ingestion_batches
            WHERE rolled_up_at IS NULL AND inserted > 0 AND oldest_occurred_at < cutoff) THEN
        RAISE lock_not_available USING MESSAGE = 'a batch of days to be dropped came in just now';
    END IF;
END
$$;

REVOKE ALL ON FUNCTION analytics.latency_value(smallint), analytics.freshness_at(uuid, timestamptz),
    analytics.set_scope(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION analytics.latency_value(smallint), analytics.freshness_at(uuid, timestamptz)
    TO analytics_rollup_worker, analytics_export_worker, analytics_gateway, analytics_gateway_all_orgs;
GRANT EXECUTE ON FUNCTION analytics.set_scope(uuid)
    TO analytics_gateway, analytics_gateway_all_orgs, analytics_export_worker;
GRANT SELECT ON analytics.day_moves TO analytics_gateway, analytics_gateway_all_orgs, analytics_export_worker;
GRANT SELECT, UPDATE ON analytics.day_moves TO analytics_rollup_worker;
