-- What was dropped is recorded, so that a proof knows what it cannot prove and a repair what it must not touch.

-- UTC days of which raw events ('events') or rollups ('rollups') were dropped after their retention, all of
-- them or some. Written in the transaction that drops. The table is also the lock between dropping and reading:
-- analytics.drop_expired_events takes it for itself, and whoever must see a day whole holds ACCESS SHARE.
CREATE TABLE analytics.dropped_days (
    day        date        NOT NULL,
    what       text COLLATE "C" NOT NULL CHECK (what IN ('events', 'rollups')),
    dropped_at timestamptz NOT NULL DEFAULT clock_timestamp(),  -- when the first of it went
    PRIMARY KEY (day, what)
);
REVOKE ALL ON analytics.dropped_days FROM PUBLIC;
GRANT SELECT, INSERT ON analytics.dropped_days TO analytics_rollup_worker;

-- The partitions (or TimescaleDB's chunks) of events that end at the cutoff or before it.
CREATE FUNCTION analytics.expired_event_parts(cutoff timestamptz) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('analytics.usage_events_default') IS NULL THEN
        RETURN ARRAY(SELECT chunk::text FROM public.show_chunks('analytics.usage_events', older_than => cutoff) AS chunk);
    END IF;
    RETURN ARRAY(SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
                 WHERE inhparent = 'analytics.usage_events'::regclass AND relname ~ '^usage_events_\d{8}$'
                   AND (to_date(right(relname, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC' <= cutoff
                 ORDER BY relname);
END
$$;

-- Removes events that occurred before the cutoff, in whole UTC days, except while a batch that may hold some of
-- them is not rolled up yet. Takes at most max_rows events (NULL: any number) from the default partition a call,
-- and drops partitions (or chunks) only in a call that leaves none there: call it until deleted_rows < max_rows.
-- The cutoff follows this server's clock where as_of is ahead of it: no other clock drops what is still young.
CREATE FUNCTION analytics.drop_expired_events(
    retention interval, as_of timestamptz, max_rows integer,
    OUT dropped_partitions integer, OUT deleted_rows bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    cutoff timestamptz := date_trunc('day', least(as_of, now()) - greatest(retention, interval '0'), 'UTC');
    native boolean := to_regclass('analytics.usage_events_default') IS NOT NULL;
    expired text[];
    name text;
    holds_events boolean := false;
BEGIN
    dropped_partitions := 0;
    deleted_rows := 0;
    IF EXISTS (SELECT FROM analytics.ingestion_batches
               WHERE rolled_up_at IS NULL AND inserted > 0 AND oldest_occurred_at < cutoff) THEN
        RETURN;
    END IF;
    -- Nothing to drop is found without a lock that anybody could wait behind.
    IF native THEN
        SELECT EXISTS (SELECT FROM analytics.usage_events_default WHERE occurred_at < cutoff) INTO holds_events;
    END IF;
    IF cardinality(analytics.expired_event_parts(cutoff)) = 0 AND NOT holds_events THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('analytics.create_event_partitions'));
    LOCK TABLE analytics.dropped_days IN ACCESS EXCLUSIVE MODE;
    expired := analytics.expired_event_parts(cutoff);  -- another worker may have been at it
    IF native THEN
        WITH gone AS (
            DELETE FROM analytics.usage_events_default WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM analytics.usage_events_default
                WHERE occurred_at < cutoff
                  AND batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL)
                LIMIT max_rows))
            RETURNING (occurred_at AT TIME ZONE 'UTC')::date AS day
        ), recorded AS (
            INSERT INTO analytics.dropped_days (day, what) SELECT DISTINCT day, 'events' FROM gone
            ON CONFLICT DO NOTHING
        )
        SELECT count(*) INTO deleted_rows FROM gone;
        IF deleted_rows >= max_rows OR cardinality(expired) = 0 THEN
            RETURN;
        END IF;
        -- In the order in which everybody else takes them, so that nobody waits in a circle.
        LOCK TABLE ONLY analytics.usage_events IN ACCESS EXCLUSIVE MODE;
        FOREACH name IN ARRAY expired LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM analytics.%I)', name) INTO holds_events;
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

-- The release before calls this name; what it drops is recorded as well.
CREATE OR REPLACE FUNCTION analytics.keep_events(retention interval, as_of timestamptz) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'SELECT dropped_partitions FROM analytics.drop_expired_events(retention, as_of, NULL)';

REVOKE ALL ON FUNCTION analytics.expired_event_parts(timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION analytics.drop_expired_events(interval, timestamptz, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION analytics.drop_expired_events(interval, timestamptz, integer) TO analytics_rollup_worker;

-- Days that were dropped before this table was there are known by what they left: rollups that show more events
-- than are stored. Only days without a partition of their own can be among them, since those go whole; with
-- TimescaleDB a late event brings a chunk back, but one that is younger than those of later days.
DO $$
DECLARE
    suspects date[];
BEGIN
    IF to_regclass('analytics.usage_events_default') IS NOT NULL THEN
        SELECT array_agg(day) INTO suspects
        FROM (SELECT DISTINCT (bucket_start AT TIME ZONE 'UTC')::date AS day FROM analytics.daily_rollups) AS shown
        WHERE to_regclass('analytics.usage_events_' || to_char(day, 'YYYYMMDD')) IS NULL;
    ELSE
        WITH chunks AS (
            SELECT range_start, range_end, substring(chunk_name from '_(\d+)_chunk$')::bigint AS number
            FROM timescaledb_information.chunks
            WHERE hypertable_schema = 'analytics' AND hypertable_name = 'usage_events'
        ), numbered AS (
            SELECT range_start, range_end, number,
                   min(number) OVER (ORDER BY range_start ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS later
            FROM chunks
        )
        SELECT array_agg((bucket_start AT TIME ZONE 'UTC')::date) INTO suspects
        FROM (SELECT DISTINCT bucket_start FROM analytics.daily_rollups) AS shown
        WHERE NOT EXISTS (SELECT FROM numbered
                          WHERE bucket_start >= range_start AND bucket_start < range_end
                            AND number < coalesce(later, number + 1));
    END IF;
    INSERT INTO analytics.dropped_days (day, what)
    SELECT day, 'events'
    FROM (SELECT day, sum(invocations) AS shown
          FROM unnest(suspects) AS day
          JOIN analytics.daily_rollups ON bucket_start = day::timestamp AT TIME ZONE 'UTC'
          GROUP BY day) AS rolled
    WHERE shown > (SELECT count(*) FROM analytics.usage_events
                   WHERE occurred_at >= day::timestamp AT TIME ZONE 'UTC'
                     AND occurred_at < (day + 1)::timestamp AT TIME ZONE 'UTC'
                     AND batch_id NOT IN (SELECT batch_id FROM analytics.ingestion_batches
                                          WHERE rolled_up_at IS NULL));
END
$$;
