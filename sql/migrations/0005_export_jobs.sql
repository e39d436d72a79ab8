-- Export jobs: each row is one file somebody asked for.
--
--   insert --> pending --claim--> running --file is whole--> succeeded --retention--> expired
--                ^                  |  |
--                |   given back, or |  '--attempts used up--> failed
--                '--will be retried-'
--
-- A running job whose lease has ended is claimed again from where it stands. Every claim raises
-- fencing_token, and every later write names the token it was given, so a worker that lost its lease
-- changes nothing. A claim also raises attempt; giving a job back at a stop lowers that again.
-- All instants are this server's, so a worker whose clock is wrong takes no lease that still runs.
CREATE TABLE analytics.export_jobs (
    org_id          uuid        NOT NULL,
    job_id          uuid        NOT NULL DEFAULT gen_random_uuid(),
    status          text COLLATE "C" NOT NULL DEFAULT 'pending',
    granularity     text COLLATE "C" NOT NULL CHECK (granularity IN ('hourly', 'daily', 'monthly')),
    window_start    timestamptz NOT NULL,       -- [start, end) in whole buckets: hours for hourly, else UTC days
    window_end      timestamptz NOT NULL,
    models          text[] COLLATE "C",         -- NULL means all
    compress        boolean     NOT NULL DEFAULT false,  -- gzip
    requested_by    text        NOT NULL,       -- the subject as given
    idempotency_key text COLLATE "C",
    scheduled       boolean     NOT NULL DEFAULT false,  -- made by schedule-monthly
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    not_before      timestamptz NOT NULL DEFAULT '-infinity',  -- when a retry is due
    started_at      timestamptz,                -- first claim
    completed_at    timestamptz,
    expires_at      timestamptz,
    worker          text,                       -- host:pid that claimed it last
    lease_until     timestamptz,
    attempt         integer     NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    fencing_token   bigint      NOT NULL DEFAULT 0 CHECK (fencing_token >= attempt),
    rows_done       bigint      NOT NULL DEFAULT 0 CHECK (rows_done >= 0),
    row_count       bigint      CHECK (row_count >= 0),
    checksum        text        CHECK (checksum ~ '^[0-9a-f]{64}$'),  -- SHA-256 of the CSV, before gzip
    size_bytes      bigint      CHECK (size_bytes >= 0),              -- of the object
    data_as_of      timestamptz,                -- the file shows every rollup committed before
    object_key      text,                       -- set while the object exists
    leftovers       boolean     NOT NULL DEFAULT false,  -- earlier attempts may have left objects
    error           text,                       -- a sentence for the user about the last failed attempt
    PRIMARY KEY (org_id, job_id),
    UNIQUE (org_id, idempotency_key),
    CHECK (window_start < window_end),
    -- 31 days as asked for, widened to whole days at both ends.
    CHECK (window_end - window_start <= interval '32 days'),
    CHECK (extract(epoch FROM window_start) % CASE granularity WHEN 'hourly' THEN 3600 ELSE 86400 END = 0),
    CHECK (extract(epoch FROM window_end) % CASE granularity WHEN 'hourly' THEN 3600 ELSE 86400 END = 0),
    CHECK (cardinality(models) BETWEEN 1 AND 100 AND array_position(models, NULL) IS NULL),
    CHECK (status IN ('pending', 'running', 'succeeded', 'failed', 'expired')),
    CHECK ((status = 'running') = (lease_until IS NOT NULL)),
    CHECK (status <> 'running' OR (attempt > 0 AND worker IS NOT NULL AND started_at IS NOT NULL)),
    CHECK ((status IN ('succeeded', 'failed', 'expired')) = (completed_at IS NOT NULL)),
    CHECK ((status IN ('succeeded', 'expired')) = (expires_at IS NOT NULL)),
    CHECK ((status IN ('succeeded', 'expired')) = (row_count IS NOT NULL AND checksum IS NOT NULL
                                                   AND size_bytes IS NOT NULL AND data_as_of IS NOT NULL)),
    CHECK (CASE status WHEN 'succeeded' THEN object_key IS NOT NULL WHEN 'expired' THEN true
                       ELSE object_key IS NULL END),
    CHECK (CASE status WHEN 'failed' THEN error IS NOT NULL WHEN 'pending' THEN true WHEN 'running' THEN true
                       ELSE error IS NULL END)
) WITH (fillfactor = 70);

-- The queue: small whatever the history.
CREATE INDEX export_jobs_queue ON analytics.export_jobs (created_at) WHERE status IN ('pending', 'running');
-- An organisation's list, newest first.
CREATE INDEX export_jobs_list ON analytics.export_jobs (org_id, created_at DESC, job_id DESC);
-- What the upkeep looks for.
CREATE INDEX export_jobs_expiry ON analytics.export_jobs (expires_at) WHERE object_key IS NOT NULL;
CREATE INDEX export_jobs_leftovers ON analytics.export_jobs (completed_at) WHERE leftovers;
CREATE UNIQUE INDEX export_jobs_scheduled ON analytics.export_jobs (org_id, granularity, window_start)
    WHERE scheduled;

CREATE FUNCTION analytics.notify_export_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('analytics_export_jobs', '');
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION analytics.notify_export_jobs() FROM PUBLIC;
CREATE TRIGGER export_jobs_inserted AFTER INSERT ON analytics.export_jobs
    FOR EACH STATEMENT EXECUTE FUNCTION analytics.notify_export_jobs();

REVOKE ALL ON analytics.export_jobs FROM PUBLIC;
GRANT SELECT ON analytics.export_jobs TO analytics_gateway, analytics_export_worker;
-- By column, so that nobody can insert a job that is already done.
GRANT INSERT (org_id, granularity, window_start, window_end, models, compress, requested_by, idempotency_key)
    ON analytics.export_jobs TO analytics_gateway;
GRANT INSERT (org_id, granularity, window_start, window_end, requested_by, scheduled)
    ON analytics.export_jobs TO analytics_export_worker;
GRANT UPDATE, DELETE ON analytics.export_jobs TO analytics_export_worker;
