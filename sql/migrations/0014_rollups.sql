-- One table of rollups: sums by organisation, bucket, model, and the value of one dimension.
--
-- Each dimension and grain has a part of its own, with its own primary key: a dimension that is switched off goes
-- by DROP, statistics and vacuum follow each one's shape, and keys need not repeat what the part says. Today's
-- tables of models are the parts of the dimension '', attached as they are.
SELECT pg_advisory_xact_lock(hashtext('analytics.rollups'));
SET LOCAL lock_timeout = '2s';

CREATE TABLE analytics.rollups (
    org_id                   uuid          NOT NULL,
    dimension                text COLLATE "C" NOT NULL,  -- '' for none; see rollup_dimensions
    grain                    smallint      NOT NULL,     -- minutes of a bucket: 60 or 1440 (a UTC day)
    bucket_start             timestamptz   NOT NULL,
    model_id                 text COLLATE "C" NOT NULL,
    value                    text COLLATE "C" NOT NULL,  -- an event without one has no row
    invocations              bigint        NOT NULL,
    errors                   bigint        NOT NULL,
    status_error             bigint        NOT NULL,
    status_timeout           bigint        NOT NULL,
    status_throttled         bigint        NOT NULL,
    input_tokens             numeric       NOT NULL,
    output_tokens            numeric       NOT NULL,
    cached_input_tokens      numeric       NOT NULL,
    cache_write_input_tokens numeric       NOT NULL,
    reasoning_tokens         numeric       NOT NULL,
    cost_estimate_cents      numeric       NOT NULL,
    success_output_tokens    numeric       NOT NULL,     -- of successes alone, for output tokens a second
    success_latency_ms       numeric       NOT NULL,
    latency_bins             smallint[]    NOT NULL,     -- histograms: bins may repeat, a count may be 0
    latency_counts           bigint[]      NOT NULL,
    first_token_bins         smallint[]    NOT NULL,
    first_token_counts       bigint[]      NOT NULL
) PARTITION BY RANGE (dimension, grain);

ALTER TABLE analytics.rollups ATTACH PARTITION analytics.hourly_rollups FOR VALUES FROM ('', 60) TO ('', 61);
ALTER TABLE analytics.rollups ATTACH PARTITION analytics.daily_rollups FOR VALUES FROM ('', 1440) TO ('', 1441);
ALTER TABLE analytics.rollups ATTACH PARTITION analytics.rollups_error_code_hours
    FOR VALUES FROM ('errorCode', 60) TO ('errorCode', 61);
ALTER TABLE analytics.rollups ATTACH PARTITION analytics.rollups_error_code_days
    FOR VALUES FROM ('errorCode', 1440) TO ('errorCode', 1441);

-- The dimensions that are kept. Every rollup adds to those that stand here when it begins.
CREATE TABLE analytics.rollup_dimensions (
    name           text COLLATE "C" PRIMARY KEY,  -- '' (models alone), errorCode, client, ..., metadata.<key>
    groupable      boolean     NOT NULL,          -- may be asked for; '' and errorCode are there for everybody
    hours_table    text COLLATE "C",              -- NULL: keeps no hours
    days_table     text COLLATE "C" NOT NULL,
    keeps_hours    boolean GENERATED ALWAYS AS (hours_table IS NOT NULL) STORED,
    hours_kept     interval,                      -- NULL: as long as the days
    -- Rollups of events that occurred before this lack the dimension (for '': the sums that were added with
    -- it). NULL: none does.
    complete_since timestamptz,
    -- The day rows hold the hours before this; later hours are added to a day when they are over, so that a busy
    -- hour is added once and not with every batch. NULL: the day rows hold all.
    days_until     timestamptz,
    holes          bigint      NOT NULL DEFAULT 0,  -- batches that were rolled up without it
    CHECK (days_until IS NULL OR hours_table IS NOT NULL)
);
-- Names the parts of metadata's dimensions, whose keys may be no names of tables.
CREATE SEQUENCE analytics.rollup_part_numbers;

INSERT INTO analytics.rollup_dimensions (name, groupable, hours_table, days_table) VALUES
    ('', false, 'hourly_rollups', 'daily_rollups'),
    ('errorCode', false, 'rollups_error_code_hours', 'rollups_error_code_days');

-- The first bucket of an hour or a day after everything that the rollups show.
CREATE FUNCTION analytics.after_last_event() RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT date_trunc('hour', max(last_event_at), 'UTC') + interval '1 hour' FROM analytics.model_freshness
$$;

-- What is rolled up already lacks the sums that come with this migration.
UPDATE analytics.rollup_dimensions SET complete_since = analytics.after_last_event() WHERE name = '';

-- Makes a dimension's parts and lists it; false when it was there. The caller holds analytics.rollups for itself
-- (lock_rollups), so that no rollup is under way that does not know of it.
CREATE FUNCTION analytics.add_rollup_dimension(new_name text, with_hours boolean, keep_hours interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    base text;
    part record;
    tables text[] := ARRAY[NULL, NULL];
BEGIN
    IF new_name !~ '^(client|actor|apiKey|provider|operation|metadata\.[A-Za-z0-9_.-]{1,64})$' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%L is no dimension', new_name);
    END IF;
    IF EXISTS (SELECT FROM analytics.rollup_dimensions WHERE name = new_name) THEN
        RETURN false;
    END IF;
    base := CASE WHEN new_name LIKE 'metadata.%' THEN 'rollups_metadata_' || nextval('analytics.rollup_part_numbers')
                 ELSE 'rollups_' || lower(regexp_replace(new_name, '([A-Z])', '_\1')) END;
    FOR part IN SELECT * FROM (VALUES (1, 60, '_hours'), (2, 1440, '_days')) AS parts (place, grain, suffix)
                WHERE place = 2 OR with_hours
    LOOP
        tables[part.place] := base || part.suffix;
        -- Made first and attached then: to be made as a part would lock the whole table against readers.
        EXECUTE format('CREATE TABLE analytics.%I (LIKE analytics.rollups INCLUDING ALL,
                            PRIMARY KEY (org_id, bucket_start, model_id, value),
                            CONSTRAINT %I CHECK (dimension = %L AND grain = %s)
                        ) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05)',
                       base || part.suffix, base || part.suffix || '_part', new_name, part.grain);
        EXECUTE format('ALTER TABLE analytics.%I
                            ALTER dimension SET DEFAULT %L, ALTER grain SET DEFAULT %s,
                            ALTER latency_bins SET STORAGE EXTERNAL, ALTER latency_counts SET STORAGE EXTERNAL,
                            ALTER first_token_bins SET STORAGE EXTERNAL, ALTER first_token_counts SET STORAGE EXTERNAL',
                       base || part.suffix, new_name, part.grain);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON analytics.%I TO analytics_rollup_worker',
                       base || part.suffix);
        EXECUTE format('ALTER TABLE analytics.rollups ATTACH PARTITION analytics.%I FOR VALUES FROM (%L, %s) TO (%L, %s)',
                       base || part.suffix, new_name, part.grain, new_name, part.grain + 1);
    END LOOP;
    INSERT INTO analytics.rollup_dimensions (name, groupable, hours_table, days_table, hours_kept, complete_since, days_until)
    VALUES (new_name, true, tables[1], tables[2], keep_hours, analytics.after_last_event(),
            CASE WHEN with_hours THEN date_trunc('hour', now(), 'UTC') - interval '1 hour' END);
    RETURN true;
END
$$;

-- Drops a dimension with all of its rollups; false when it was not there. The caller holds analytics.rollups.
CREATE FUNCTION analytics.drop_rollup_dimension(old_name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    known analytics.rollup_dimensions;
BEGIN
    DELETE FROM analytics.rollup_dimensions WHERE name = old_name AND groupable RETURNING * INTO known;
    IF known.name IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE analytics.%I', known.days_table);
    IF known.hours_table IS NOT NULL THEN
        EXECUTE format('DROP TABLE analytics.%I', known.hours_table);
    END IF;
    RETURN true;
END
$$;

-- A worker of the release before marks its batches as rolled up and has added to models alone: from there on no
-- dimension is complete until it is backfilled.
CREATE FUNCTION analytics.note_missing_dimensions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE analytics.rollup_dimensions
    SET complete_since = greatest(complete_since, date_trunc('hour', NEW.newest_occurred_at, 'UTC') + interval '1 hour'),
        holes = holes + 1
    WHERE groupable OR name = '';
    RETURN NULL;
END
$$;
CREATE TRIGGER rolled_up_without_dimensions AFTER UPDATE OF rolled_up_at ON analytics.ingestion_batches
    FOR EACH ROW WHEN (OLD.rolled_up_at IS NULL AND NEW.rolled_up_at IS NOT NULL
                       AND NOT NEW.with_dimensions AND NEW.inserted > 0)
    EXECUTE FUNCTION analytics.note_missing_dimensions();

-- Wakes the rollup workers that listen.
CREATE FUNCTION analytics.notify_batches() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('analytics_batches', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER batch_committed AFTER INSERT ON analytics.ingestion_batches
    FOR EACH STATEMENT EXECUTE FUNCTION analytics.notify_batches();

-- The bins of single events as a histogram, each bin once.
CREATE FUNCTION analytics.latency_fold(bins smallint[], OUT latency_bins smallint[], OUT latency_counts bigint[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(bin ORDER BY bin), '{}'), coalesce(array_agg(events ORDER BY bin), '{}')
    FROM (SELECT bin, count(*) AS events FROM unnest(bins) AS entry (bin) GROUP BY bin) AS folded
$$;

-- The two arrays of latency_append, each by itself. Short enough to be put into the statement in place of a call,
-- which costs a few times what appending does; the fold itself is rare.
CREATE FUNCTION analytics.append_bins(bins smallint[], counts bigint[], more_bins smallint[], more_counts bigint[])
RETURNS smallint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN cardinality(bins) + cardinality(more_bins) <= 192
                  OR cardinality(bins) + cardinality(more_bins) <= 2 * coalesce(array_position(counts, 0::bigint), 0)
                THEN bins || more_bins
                ELSE (analytics.latency_append(bins, counts, more_bins, more_counts)).latency_bins END
$$;
CREATE FUNCTION analytics.append_counts(bins smallint[], counts bigint[], more_bins smallint[], more_counts bigint[])
RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN cardinality(bins) + cardinality(more_bins) <= 192
                  OR cardinality(bins) + cardinality(more_bins) <= 2 * coalesce(array_position(counts, 0::bigint), 0)
                THEN counts || more_counts
                ELSE (analytics.latency_append(bins, counts, more_bins, more_counts)).latency_counts END
$$;

REVOKE ALL ON analytics.rollups, analytics.rollup_dimensions FROM PUBLIC;
REVOKE ALL ON FUNCTION analytics.after_last_event(), analytics.add_rollup_dimension(text, boolean, interval),
    analytics.drop_rollup_dimension(text), analytics.note_missing_dimensions(), analytics.notify_batches(),
    analytics.latency_fold(smallint[]),
    analytics.append_bins(smallint[], bigint[], smallint[], bigint[]),
    analytics.append_counts(smallint[], bigint[], smallint[], bigint[]) FROM PUBLIC;
GRANT SELECT ON analytics.rollups TO analytics_rollup_worker, analytics_gateway, analytics_export_worker;
GRANT SELECT ON analytics.rollup_dimensions TO analytics_gateway, analytics_export_worker;
GRANT SELECT, UPDATE ON analytics.rollup_dimensions TO analytics_rollup_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON analytics.rollups_error_code_hours, analytics.rollups_error_code_days
    TO analytics_rollup_worker;
GRANT EXECUTE ON FUNCTION analytics.after_last_event(), analytics.add_rollup_dimension(text, boolean, interval),
    analytics.drop_rollup_dimension(text), analytics.latency_fold(smallint[]),
    analytics.append_bins(smallint[], bigint[], smallint[], bigint[]),
    analytics.append_counts(smallint[], bigint[], smallint[], bigint[]) TO analytics_rollup_worker;
GRANT SELECT ON analytics.model_freshness TO analytics_rollup_worker;
