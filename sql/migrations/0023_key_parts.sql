-- The ledger of dedupe keys in parts, by time of receipt. analytics.event_keys is the open part: every batch copies
-- its keys into it, and its primary key refuses duplicates. When it has grown it is closed: renamed to
-- event_keys_<part>, never written again, and dropped whole when all its keys are past their window. Whoever copies
-- keys looks into the closed parts first; their filters, kept by ingestors in memory, say where that is worth while.
-- Small closed parts are merged into larger ones, since each filter lets some unknown keys pass.

CREATE TABLE analytics.key_parts (
    part          integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- never used again
    opened_at     timestamptz NOT NULL,            -- when its first key was received
    closed_at     timestamptz NOT NULL,            -- each of its keys was received before
    merges        integer[],                       -- the parts whose place it takes when it is ready; it is no part before
    copied        integer     NOT NULL DEFAULT 0,  -- how many of these are copied into it
    ready         boolean     NOT NULL DEFAULT true,      -- whether it has all its keys, and their index
    filter_blocks integer     CHECK (filter_blocks > 0),  -- how large its filter is; NULL until it is begun
    filter_made   boolean     NOT NULL DEFAULT false,     -- whether all slices are there
    keys          bigint                                  -- counted while its filter is made
);

-- The filters, in slices of at most a MiB (shared/key_filter.py). Random bits do not compress.
CREATE TABLE analytics.key_filters (
    part  integer NOT NULL REFERENCES analytics.key_parts ON DELETE CASCADE,
    slice integer NOT NULL,
    bits  bytea   NOT NULL,
    PRIMARY KEY (part, slice)
);
ALTER TABLE analytics.key_filters ALTER bits SET STORAGE EXTERNAL;

-- For the release before, which knows one table: its look for known keys reads all parts through the open one, whose
-- child this is, and the parent of the closed ones. It holds no row itself.
CREATE TABLE analytics.closed_event_keys (LIKE analytics.event_keys);
ALTER TABLE analytics.closed_event_keys INHERIT analytics.event_keys;

-- Checks the keys of a writer that has not looked into the closed parts, and refuses them as the primary key does.
CREATE FUNCTION analytics.refuse_closed_event_keys() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT FROM added CROSS JOIN LATERAL (
                   SELECT FROM analytics.closed_event_keys AS key
                   WHERE key.event_id = added.event_id AND key.org_id = added.org_id LIMIT 1) AS known) THEN
        RAISE unique_violation USING MESSAGE = 'a closed part of the ledger has one of these keys',
            SCHEMA = 'analytics', TABLE = 'event_keys', CONSTRAINT = 'event_keys_pkey';
    END IF;
    RETURN NULL;
END
$$;

-- Keeps keys from being deleted one by one: the release before does so by their place in the table, which several
-- parts have. It then removes nothing; parts are dropped.
CREATE FUNCTION analytics.keep_event_key() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN NULL;
END
$$;

-- What the open part has beside its columns and indexes.
CREATE FUNCTION analytics.equip_event_keys() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CREATE TRIGGER refuse_closed AFTER INSERT ON analytics.event_keys REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT WHEN (current_setting('analytics.asks_closed_parts', true) IS DISTINCT FROM 'on')
        EXECUTE FUNCTION analytics.refuse_closed_event_keys();
    CREATE TRIGGER keep_key BEFORE DELETE ON analytics.event_keys
        FOR EACH ROW EXECUTE FUNCTION analytics.keep_event_key();
    GRANT SELECT, INSERT ON analytics.event_keys TO analytics_ingestor;
    GRANT SELECT, DELETE ON analytics.event_keys TO analytics_rollup_worker;
END
$$;
SELECT analytics.equip_event_keys();

-- Closes the open part if it has about so many keys, or if its first was received that long before as_of, and opens
-- an empty one. Returns the closed part's number, or NULL. It needs the open part to itself for a moment: it waits
-- for the batches under way, whose keys are then in the closed part, and those that come later find the new one.
-- After a second of waiting PostgreSQL ends an autovacuum that is in the way, so the limit is longer.
CREATE FUNCTION analytics.close_event_keys(max_keys bigint, max_age interval, as_of timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    number integer;
    name text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('analytics.key_parts')) THEN
        RETURN NULL;  -- another worker is at it
    END IF;
    -- A page holds 107 keys; the first in the table came first.
    IF pg_relation_size('analytics.event_keys') / current_setting('block_size')::integer * 107 < max_keys
       AND NOT EXISTS (SELECT FROM (SELECT first_received_at FROM ONLY analytics.event_keys LIMIT 1) AS first
                       WHERE first_received_at <= as_of - max_age) THEN
        RETURN NULL;
    END IF;
    IF NOT EXISTS (SELECT FROM ONLY analytics.event_keys) THEN
        RETURN NULL;  -- it has nothing but rows of batches that were refused
    END IF;
    LOCK TABLE ONLY analytics.event_keys IN ACCESS EXCLUSIVE MODE;
    INSERT INTO analytics.key_parts (opened_at, closed_at)
    SELECT coalesce(min(first_received_at), clock_timestamp()), clock_timestamp()
    FROM (SELECT first_received_at FROM ONLY analytics.event_keys LIMIT 1) AS first
    RETURNING part INTO number;
    name := 'event_keys_' || number;
    ALTER TABLE analytics.closed_event_keys NO INHERIT analytics.event_keys;
    DROP TRIGGER refuse_closed ON analytics.event_keys;
    REVOKE INSERT ON analytics.event_keys FROM analytics_ingestor;
    ALTER INDEX analytics.event_keys_pkey RENAME TO event_keys_closing_pkey;
    ALTER INDEX analytics.event_keys_first_received RENAME TO event_keys_closing_first_received;
    ALTER TABLE analytics.event_keys RENAME TO event_keys_closing;
    CREATE TABLE analytics.event_keys (LIKE analytics.event_keys_closing);
    ALTER TABLE analytics.event_keys ADD PRIMARY KEY (event_id, org_id);
    CREATE INDEX event_keys_first_received ON analytics.event_keys
        USING brin (first_received_at) WITH (pages_per_range = 32, autosummarize = on);
    PERFORM analytics.equip_event_keys();
    ALTER TABLE analytics.closed_event_keys INHERIT analytics.event_keys;
    ALTER TABLE analytics.event_keys_closing INHERIT analytics.closed_event_keys;
    EXECUTE format('ALTER INDEX analytics.event_keys_closing_pkey RENAME TO %I', name || '_pkey');
    EXECUTE format('ALTER INDEX analytics.event_keys_closing_first_received RENAME TO %I', name || '_first_received');
    EXECUTE format('ALTER TABLE analytics.event_keys_closing RENAME TO %I', name);
    RETURN number;
END
$$;

-- Drops the oldest part that was closed before the cutoff, unless somebody is at work on it. Returns its number of
-- keys (0 if they were not counted), or NULL if there is none.
CREATE FUNCTION analytics.drop_event_keys(cutoff timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    oldest analytics.key_parts;
BEGIN
    DELETE FROM analytics.key_parts
    WHERE part = (SELECT part FROM analytics.key_parts WHERE closed_at < cutoff AND merges IS NULL
                  ORDER BY closed_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING * INTO oldest;
    IF oldest.part IS NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('DROP TABLE analytics.%I', 'event_keys_' || oldest.part);
    RETURN coalesce(oldest.keys, 0);
END
$$;

-- Does the next step of a merge: copies one of its parts, or makes the index when all are copied. Without a merge under
-- way it begins one of the given parts, if there are any. Returns whether it did something.
CREATE FUNCTION analytics.merge_event_keys(sources integer[]) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    merged analytics.key_parts;
    source text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('analytics.merge_event_keys')) THEN
        RETURN false;  -- another worker is at it
    END IF;
    SELECT * INTO merged FROM analytics.key_parts WHERE merges IS NOT NULL;
    IF merged.ready THEN
        RETURN false;  -- it waits for its filter
    END IF;
    IF merged.part IS NULL THEN
        INSERT INTO analytics.key_parts (opened_at, closed_at, merges, ready)
        SELECT min(opened_at), max(closed_at), sources, false FROM analytics.key_parts
        WHERE part = ANY (sources) AND merges IS NULL
        HAVING count(*) = cardinality(sources) AND count(*) > 1
        RETURNING * INTO merged;
        IF merged.part IS NOT NULL THEN
            EXECUTE format('CREATE TABLE analytics.%I (LIKE analytics.event_keys)', 'event_keys_' || merged.part);
            EXECUTE format('GRANT SELECT ON analytics.%I TO analytics_ingestor, analytics_rollup_worker',
                           'event_keys_' || merged.part);
        END IF;
    ELSIF merged.copied < cardinality(merged.merges) THEN
        source := 'event_keys_' || merged.merges[merged.copied + 1];
        IF to_regclass('analytics.' || source) IS NOT NULL THEN  -- or it is past its window, and dropped
            EXECUTE format('INSERT INTO analytics.%I SELECT * FROM analytics.%I', 'event_keys_' || merged.part, source);
        END IF;
        UPDATE analytics.key_parts SET copied = copied + 1 WHERE part = merged.part;
    ELSE
        EXECUTE format('CREATE INDEX %I ON analytics.%I (event_id, org_id)',
                       'event_keys_' || merged.part || '_pkey', 'event_keys_' || merged.part);
        UPDATE analytics.key_parts SET ready = true WHERE part = merged.part;
    END IF;
    RETURN merged.part IS NOT NULL;
END
$$;

-- Puts a part that is ready, and has its filter, in the place of those that it was merged of. Returns its number, or
-- NULL if there is none.
CREATE FUNCTION analytics.replace_event_keys() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    merged analytics.key_parts;
    source integer;
BEGIN
    SELECT * INTO merged FROM analytics.key_parts
    WHERE merges IS NOT NULL AND ready AND filter_made ORDER BY part LIMIT 1 FOR UPDATE SKIP LOCKED;
    FOREACH source IN ARRAY coalesce(merged.merges, '{}') LOOP
        DELETE FROM analytics.key_parts WHERE part = source;
        EXECUTE format('DROP TABLE IF EXISTS analytics.%I', 'event_keys_' || source);
    END LOOP;
    IF merged.part IS NOT NULL THEN
        UPDATE analytics.key_parts SET merges = NULL WHERE part = merged.part;
        EXECUTE format('ALTER TABLE analytics.%I INHERIT analytics.closed_event_keys', 'event_keys_' || merged.part);
        EXECUTE format('CREATE TRIGGER keep_key BEFORE DELETE ON analytics.%I
                        FOR EACH ROW EXECUTE FUNCTION analytics.keep_event_key()', 'event_keys_' || merged.part);
    END IF;
    RETURN merged.part;
END
$$;

REVOKE ALL ON analytics.key_parts, analytics.key_filters, analytics.closed_event_keys FROM PUBLIC;
REVOKE ALL ON FUNCTION analytics.refuse_closed_event_keys(), analytics.keep_event_key(), analytics.equip_event_keys(),
    analytics.close_event_keys(bigint, interval, timestamptz), analytics.drop_event_keys(timestamptz),
    analytics.merge_event_keys(integer[]), analytics.replace_event_keys() FROM PUBLIC;
GRANT SELECT ON analytics.key_parts, analytics.key_filters, analytics.closed_event_keys TO analytics_ingestor;
GRANT SELECT, UPDATE (filter_blocks, filter_made, keys) ON analytics.key_parts TO analytics_rollup_worker;
GRANT SELECT, INSERT ON analytics.key_filters TO analytics_rollup_worker;
GRANT EXECUTE ON FUNCTION analytics.refuse_closed_event_keys() TO analytics_ingestor;
GRANT EXECUTE ON FUNCTION analytics.close_event_keys(bigint, interval, timestamptz),
    analytics.drop_event_keys(timestamptz), analytics.merge_event_keys(integer[]), analytics.replace_event_keys()
    TO analytics_rollup_worker;
