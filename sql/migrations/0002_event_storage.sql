-- The events themselves, spread over days: a TimescaleDB hypertable where the extension can be had,
-- native partitions where not. Everything else is the same SQL for both.

-- The primary key finds an organisation's events by time. The batch index finds what a batch brought,
-- for the rollups, and which organisations wait for it, for freshness; new entries land at its right end.
CREATE TABLE analytics.usage_events (
    org_id              uuid           NOT NULL,
    occurred_at         timestamptz    NOT NULL,
    event_id            uuid           NOT NULL,
    batch_id            bigint         NOT NULL,
    received_at         timestamptz    NOT NULL,
    model_id            text COLLATE "C" NOT NULL,
    status              text COLLATE "C" NOT NULL CHECK (status IN ('success', 'error', 'timeout', 'throttled')),
    latency_ms          integer        NOT NULL CHECK (latency_ms >= 0),
    input_tokens        bigint         NOT NULL CHECK (input_tokens >= 0),
    output_tokens       bigint         NOT NULL CHECK (output_tokens >= 0),
    -- NaN counts as greater than every number, so an upper bound is what keeps it out.
    cost_estimate_cents numeric(24,10) NOT NULL CHECK (cost_estimate_cents >= 0 AND cost_estimate_cents <= 1e12),
    actor_id            text,
    client_id           text,
    error_code          text COLLATE "C",
    metadata            jsonb          NOT NULL,
    PRIMARY KEY (org_id, occurred_at, event_id)
) PARTITION BY RANGE (occurred_at);

DO $$
BEGIN
    -- The setting exists only where the extension's library is preloaded; without that, CREATE
    -- EXTENSION would end the session.
    IF current_setting('timescaledb.max_background_workers', true) IS NOT NULL
       AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') THEN
        CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public;
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        -- A hypertable cannot be a partitioned table: make it again as a plain one.
        CREATE TABLE analytics.usage_events_plain (LIKE analytics.usage_events INCLUDING ALL);
        DROP TABLE analytics.usage_events;
        ALTER TABLE analytics.usage_events_plain RENAME TO usage_events;
        ALTER INDEX analytics.usage_events_plain_pkey RENAME TO usage_events_pkey;
        PERFORM public.create_hypertable('analytics.usage_events', public.by_range('occurred_at', interval '1 day'),
                                         create_default_indexes => false);
        -- Old chunks are dropped by analytics.keep_events: a retention policy would not wait for the
        -- rollups. Compression is not part of the extension's Apache edition.
        IF current_setting('timescaledb.license') = 'timescale' THEN
            ALTER TABLE analytics.usage_events SET (
                timescaledb.compress, timescaledb.compress_segmentby = 'org_id',
                timescaledb.compress_orderby = 'occurred_at, event_id');
            PERFORM public.add_compression_policy('analytics.usage_events', interval '7 days');
        END IF;
    ELSE
        -- Days without a partition of their own (late events, a worker that was long away) land here.
        CREATE TABLE analytics.usage_events_default PARTITION OF analytics.usage_events DEFAULT;
    END IF;
END
$$;

CREATE INDEX usage_events_batch ON analytics.usage_events (batch_id, org_id);

-- Creates the daily partitions from from_day to to_day (UTC days, both included) that are missing and
-- returns how many. A day whose events already lie in the default partition keeps them there for good:
-- to move them would hold everyone up, and queries, the rollups and retention find them all the same.
-- Both functions need the whole table to themselves for a moment. Whoever comes while they wait for
-- that waits behind them, so they give up soon and are tried again.
CREATE FUNCTION analytics.create_event_partitions(from_day date, to_day date) RETURNS integer
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
        CONTINUE WHEN EXISTS (SELECT FROM analytics.usage_events_default
                              WHERE occurred_at >= day_start AND occurred_at < day_start + interval '1 day');
        EXECUTE format('CREATE TABLE analytics.%I PARTITION OF analytics.usage_events FOR VALUES FROM (%L) TO (%L)',
                       partition_name, day_start, day_start + interval '1 day');
        created := created + 1;
    END LOOP;
    RETURN created;
END
$$;

-- Removes events that occurred before the cutoff, in whole UTC days, except while a batch that may
-- hold some of them is not rolled up yet. Returns how many partitions (or chunks) it dropped.
CREATE FUNCTION analytics.keep_events(retention interval, as_of timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    cutoff timestamptz := date_trunc('day', as_of - retention, 'UTC');
    dropped integer := 0;
    part record;
BEGIN
    IF EXISTS (SELECT FROM analytics.ingestion_batches
               WHERE rolled_up_at IS NULL AND inserted > 0 AND oldest_occurred_at < cutoff) THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('analytics.create_event_partitions'));
    IF to_regclass('analytics.usage_events_default') IS NULL THEN
        SELECT count(*) INTO dropped FROM public.drop_chunks('analytics.usage_events', older_than => cutoff);
    ELSE
        DELETE FROM analytics.usage_events_default WHERE occurred_at < cutoff
            AND batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL);
        FOR part IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                    WHERE i.inhparent = 'analytics.usage_events'::regclass
                      AND c.relname ~ '^usage_events_\d{8}$'
                      AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC' <= cutoff
        LOOP
            EXECUTE format('DROP TABLE analytics.%I', part.relname);
            dropped := dropped + 1;
        END LOOP;
    END IF;
    -- Nobody else can write events now. A batch that came since the first look undoes it all.
    IF dropped > 0 AND EXISTS (SELECT FROM analytics.ingestion_batches
                               WHERE rolled_up_at IS NULL AND inserted > 0 AND oldest_occurred_at < cutoff) THEN
        RAISE lock_not_available USING MESSAGE = 'a batch of days to be dropped came in just now';
    END IF;
    RETURN dropped;
END
$$;

-- The ingestor may run before the first rollup worker: give it this week.
SELECT analytics.create_event_partitions((now() AT TIME ZONE 'UTC')::date - 2, (now() AT TIME ZONE 'UTC')::date + 7);
