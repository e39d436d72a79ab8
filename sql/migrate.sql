-- name: lock
-- One migration run at a time, until the end of the transaction.
SELECT pg_advisory_xact_lock(hashtext('analytics.migrate'));

-- name: create_list
-- The list of applied migrations. Created only where absent, since IF NOT EXISTS alone needs the right to create.
DO $$
BEGIN
    IF to_regclass('analytics.schema_migrations') IS NULL THEN
        CREATE SCHEMA IF NOT EXISTS analytics;
        CREATE TABLE analytics.schema_migrations (
            version    integer     PRIMARY KEY,
            name       text        NOT NULL,
            checksum   text        NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT now()
        );
    END IF;
END
$$;

-- name: find
-- The checksum of an applied migration.
SELECT checksum FROM analytics.schema_migrations WHERE version = %(version)s;

-- name: record
-- Notes a migration as applied.
INSERT INTO analytics.schema_migrations (version, name, checksum)
VALUES (%(version)s, %(name)s, %(checksum)s);

-- name: has_list
-- Whether any migration was ever begun here.
SELECT to_regclass('analytics.schema_migrations') IS NOT NULL;

-- name: current_version
-- The newest applied migration.
SELECT max(version) FROM analytics.schema_migrations;
