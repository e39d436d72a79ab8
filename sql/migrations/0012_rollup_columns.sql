-- The tables of rollups get the columns of the one table that they become parts of (the migration after the
-- next). Nothing is rewritten: a constant default is kept in the catalogue, and the checks hold for new rows at
-- once and are proven for the old ones by the next migration, which blocks nobody. The release before goes on
-- with its own statements: it names its columns, and the defaults are the others.

-- Rollups under way are waited for here and not at the tables, where everybody else would wait behind this.
SELECT pg_advisory_xact_lock(hashtext('analytics.rollups'));
SET LOCAL lock_timeout = '2s';  -- a long read holds this up, and this everybody: rather give up and try again

-- Whether the batch's rollups were added by a release that knows of dimensions.
ALTER TABLE analytics.ingestion_batches ADD COLUMN with_dimensions boolean NOT NULL DEFAULT false;

ALTER TABLE analytics.hourly_rollups
    ADD COLUMN dimension text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN grain smallint NOT NULL DEFAULT 60,
    ADD COLUMN value text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN cached_input_tokens numeric NOT NULL DEFAULT 0,
    ADD COLUMN cache_write_input_tokens numeric NOT NULL DEFAULT 0,
    ADD COLUMN reasoning_tokens numeric NOT NULL DEFAULT 0,
    ADD COLUMN success_output_tokens numeric NOT NULL DEFAULT 0,
    ADD COLUMN success_latency_ms numeric NOT NULL DEFAULT 0,
    ADD COLUMN first_token_bins smallint[] NOT NULL DEFAULT '{}',
    ADD COLUMN first_token_counts bigint[] NOT NULL DEFAULT '{}',
    ALTER first_token_bins SET STORAGE EXTERNAL,
    ALTER first_token_counts SET STORAGE EXTERNAL,
    ADD CONSTRAINT hourly_rollups_part CHECK (dimension = '' AND grain = 60) NOT VALID;

ALTER TABLE analytics.daily_rollups
    ADD COLUMN dimension text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN grain smallint NOT NULL DEFAULT 1440,
    ADD COLUMN value text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN cached_input_tokens numeric NOT NULL DEFAULT 0,
    ADD COLUMN cache_write_input_tokens numeric NOT NULL DEFAULT 0,
    ADD COLUMN reasoning_tokens numeric NOT NULL DEFAULT 0,
    ADD COLUMN success_output_tokens numeric NOT NULL DEFAULT 0,
    ADD COLUMN success_latency_ms numeric NOT NULL DEFAULT 0,
    ADD COLUMN first_token_bins smallint[] NOT NULL DEFAULT '{}',
    ADD COLUMN first_token_counts bigint[] NOT NULL DEFAULT '{}',
    ALTER first_token_bins SET STORAGE EXTERNAL,
    ALTER first_token_counts SET STORAGE EXTERNAL,
    ADD CONSTRAINT daily_rollups_part CHECK (dimension = '' AND grain = 1440) NOT VALID;

-- Error codes become a dimension: the code is its value, and its rows count and sum nothing else. The release
-- before keeps the old names as views, which it reads, adds to and prunes as it did the tables. (A view may have
-- a column of this name, and the old pruning asks for it.)
DO $$
DECLARE
    part record;
    privilege record;
BEGIN
    FOR part IN SELECT * FROM (VALUES ('hourly_error_codes', 'rollups_error_code_hours', 60),
                                      ('daily_error_codes', 'rollups_error_code_days', 1440))
                              AS parts (old_name, new_name, grain)
    LOOP
        EXECUTE format('ALTER TABLE analytics.%I RENAME COLUMN error_code TO value', part.old_name);
        EXECUTE format('ALTER TABLE analytics.%I RENAME COLUMN events TO invocations', part.old_name);
        EXECUTE format('ALTER TABLE analytics.%I RENAME CONSTRAINT %I TO %I',
                       part.old_name, part.old_name || '_pkey', part.new_name || '_pkey');
        EXECUTE format('ALTER TABLE analytics.%I RENAME TO %I', part.old_name, part.new_name);
        EXECUTE format($ddl$
            ALTER TABLE analytics.%1$I
                ADD COLUMN dimension text COLLATE "C" NOT NULL DEFAULT 'errorCode',
                ADD COLUMN grain smallint NOT NULL DEFAULT %2$s,
                ADD COLUMN errors bigint NOT NULL DEFAULT 0,
                ADD COLUMN status_error bigint NOT NULL DEFAULT 0,
                ADD COLUMN status_timeout bigint NOT NULL DEFAULT 0,
                ADD COLUMN status_throttled bigint NOT NULL DEFAULT 0,
                ADD COLUMN input_tokens numeric NOT NULL DEFAULT 0,
                ADD COLUMN output_tokens numeric NOT NULL DEFAULT 0,
                ADD COLUMN cached_input_tokens numeric NOT NULL DEFAULT 0,
                ADD COLUMN cache_write_input_tokens numeric NOT NULL DEFAULT 0,
                ADD COLUMN reasoning_tokens numeric NOT NULL DEFAULT 0,
                ADD COLUMN cost_estimate_cents numeric NOT NULL DEFAULT 0,
                ADD COLUMN success_output_tokens numeric NOT NULL DEFAULT 0,
                ADD COLUMN success_latency_ms numeric NOT NULL DEFAULT 0,
                ADD COLUMN latency_bins smallint[] NOT NULL DEFAULT '{}',
                ADD COLUMN latency_counts bigint[] NOT NULL DEFAULT '{}',
                ADD COLUMN first_token_bins smallint[] NOT NULL DEFAULT '{}',
                ADD COLUMN first_token_counts bigint[] NOT NULL DEFAULT '{}',
                ADD CONSTRAINT %3$I CHECK (dimension = 'errorCode' AND grain = %2$s) NOT VALID
            $ddl$, part.new_name, part.grain, part.new_name || '_part');
        EXECUTE format(
            'CREATE VIEW analytics.%I AS
             SELECT org_id, bucket_start, model_id, value AS error_code, invocations AS events, ctid FROM analytics.%I',
            part.old_name, part.new_name);
        EXECUTE format('REVOKE ALL ON analytics.%I FROM PUBLIC', part.old_name);
        FOR privilege IN SELECT grantee::regrole AS role_name, privilege_type
                         FROM pg_class, aclexplode(relacl)
                         WHERE oid = ('analytics.' || part.new_name)::regclass AND grantee <> relowner AND grantee <> 0
        LOOP
            EXECUTE format('GRANT %s ON analytics.%I TO %s',
                           privilege.privilege_type, part.old_name, privilege.role_name);
        END LOOP;
    END LOOP;
END
$$;
