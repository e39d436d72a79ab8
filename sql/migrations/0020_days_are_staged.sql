-- A dimension that keeps days alone (actor:day) takes its events by the hour as well, in a part that nobody may ask
-- for hours of: it holds the hours from days_until on, and an hour goes to the days when it is over. To look for a
-- group's row of the day with every event was the dearest part of a rollup.
SELECT pg_advisory_xact_lock(hashtext('analytics.rollups'));
SET LOCAL lock_timeout = '2s';

-- Whether hours may be asked for. It followed from hours_table; now every dimension has one.
ALTER TABLE analytics.rollup_dimensions ALTER keeps_hours DROP EXPRESSION;
ALTER TABLE analytics.rollup_dimensions ALTER keeps_hours SET NOT NULL;

-- One after another: histograms of the hours of a day.
CREATE AGGREGATE analytics.concat (anycompatiblearray) (SFUNC = array_cat, STYPE = anycompatiblearray);

-- Makes a part of the rollups. Hours take rows without looking for those that are there (see the migration before).
CREATE FUNCTION analytics.add_rollup_part(of_dimension text, of_grain integer, part text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Made first and attached then: to be made as a part would lock the whole table against readers.
    EXECUTE format('CREATE TABLE analytics.%I (LIKE analytics.rollups INCLUDING ALL,
                        CONSTRAINT %I CHECK (dimension = %L AND grain = %s)
                    ) WITH (fillfactor = %s, autovacuum_vacuum_scale_factor = 0.05)',
                   part, part || '_part', of_dimension, of_grain, CASE of_grain WHEN 60 THEN 100 ELSE 90 END);
    IF of_grain = 60 THEN
        EXECUTE format('CREATE INDEX %I ON analytics.%I (org_id, bucket_start)', part || '_org', part);
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

-- Makes a dimension's parts and lists it; false when it was there. The caller holds analytics.rollups for itself
-- (lock_rollups), so that no rollup is under way that does not know of it.
CREATE OR REPLACE FUNCTION analytics.add_rollup_dimension(new_name text, with_hours boolean, keep_hours interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    base text;
BEGIN
    IF new_name !~ '^(client|actor|apiKey|provider|operation|metadata\.[A-Za-z0-9_.-]{1,64})$' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%L is no dimension', new_name);
    END IF;
    IF EXISTS (SELECT FROM analytics.rollup_dimensions WHERE name = new_name) THEN
        RETURN false;
    END IF;
    base := CASE WHEN new_name LIKE 'metadata.%' THEN 'rollups_metadata_' || nextval('analytics.rollup_part_numbers')
                 ELSE 'rollups_' || lower(regexp_replace(new_name, '([A-Z])', '_\1')) END;
    PERFORM analytics.add_rollup_part(new_name, 60, base || '_hours'),
            analytics.add_rollup_part(new_name, 1440, base || '_days');
    INSERT INTO analytics.rollup_dimensions
        (name, groupable, hours_table, days_table, keeps_hours, hours_kept, complete_since, days_until)
    VALUES (new_name, true, base || '_hours', base || '_days', with_hours, keep_hours, analytics.after_last_event(),
            date_trunc('hour', now(), 'UTC') - interval '1 hour');
    RETURN true;
END
$$;

-- Those that are kept by day already: their days hold all that has come.
DO $$
DECLARE
    known record;
    part text;
BEGIN
    FOR known IN SELECT name, days_table FROM analytics.rollup_dimensions WHERE hours_table IS NULL LOOP
        part := regexp_replace(known.days_table, '_days$', '_hours');
        PERFORM analytics.add_rollup_part(known.name, 60, part);
        UPDATE analytics.rollup_dimensions
        SET hours_table = part,
            days_until = greatest(analytics.after_last_event(), date_trunc('hour', now(), 'UTC') - interval '1 hour')
        WHERE name = known.name;
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION analytics.add_rollup_part(text, integer, text), analytics.concat(anycompatiblearray) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION analytics.concat(anycompatiblearray) TO analytics_rollup_worker;
