-- The hours of a dimension take rows without looking for those that are there: a group may have several rows, which
-- add up. To look for each, and to change it, was two thirds of what a dimension cost. The rollup worker merges them
-- (rollup_worker/merge.py). Days, models and error codes keep one row for each group.
SELECT pg_advisory_xact_lock(hashtext('analytics.rollups'));
SET LOCAL lock_timeout = '2s';

DO $$
DECLARE
    part text;
BEGIN
    FOR part IN SELECT hours_table FROM analytics.rollup_dimensions WHERE groupable AND hours_table IS NOT NULL LOOP
        EXECUTE format('ALTER TABLE analytics.%I DROP CONSTRAINT %I', part, part || '_pkey');
        EXECUTE format('CREATE INDEX %I ON analytics.%I (org_id, bucket_start)', part || '_org', part);
    END LOOP;
END
$$;

-- Makes a dimension's parts and lists it; false when it was there. The caller holds analytics.rollups for itself
-- (lock_rollups), so that no rollup is under way that does not know of it.
CREATE OR REPLACE FUNCTION analytics.add_rollup_dimension(new_name text, with_hours boolean, keep_hours interval) RETURNS boolean
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
                            CONSTRAINT %I CHECK (dimension = %L AND grain = %s)
                        ) WITH (fillfactor = %s, autovacuum_vacuum_scale_factor = 0.05)',
                       base || part.suffix, base || part.suffix || '_part', new_name, part.grain,
                       CASE part.grain WHEN 60 THEN 100 ELSE 90 END);
        IF part.grain = 60 THEN
            EXECUTE format('CREATE INDEX %I ON analytics.%I (org_id, bucket_start)',
                           base || part.suffix || '_org', base || part.suffix);
        ELSE
            EXECUTE format('ALTER TABLE analytics.%I ADD PRIMARY KEY (org_id, bucket_start, model_id, value)',
                           base || part.suffix);
        END IF;
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
