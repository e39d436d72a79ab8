-- Roles and tables. Every table that grows with traffic has org_id in its primary key, so that a fleet
-- that outgrows one server can be spread by organisation.

CREATE SCHEMA IF NOT EXISTS analytics;

-- One group role per process, with the least it needs. Login users are members of them; this
-- migration makes none, because their passwords belong to whoever runs the fleet. Roles are shared by
-- all databases of a server, so another database's migration may have made them already, or be
-- making them right now.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['analytics_ingestor', 'analytics_rollup_worker',
                                     'analytics_export_worker', 'analytics_gateway']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN NULL;
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'role % is missing and this user may not create it', role_name
                        USING HINT = format('Ask an administrator to run: CREATE ROLE %I NOLOGIN', role_name);
            END;
        END IF;
    END LOOP;
END
$$;

-- The dedupe identity of every accepted event, written in the transaction that stores the event.
-- A table of its own, since a unique key on the partitioned events would have to contain the time
-- and then the same event resent with another time would count twice. event_id leads: time-ordered
-- ids then touch few index pages.
CREATE TABLE analytics.event_keys (
    event_id          uuid        NOT NULL,
    org_id            uuid        NOT NULL,
    content_digest    bigint      NOT NULL,  -- tells a resend from a different event under the same id
    first_received_at timestamptz NOT NULL,
    PRIMARY KEY (event_id, org_id)
);
-- Keys are pruned by age; rows lie in order of arrival, so a block range index costs almost nothing.
CREATE INDEX event_keys_first_received ON analytics.event_keys
    USING brin (first_received_at) WITH (pages_per_range = 32, autosummarize = on);

-- One row per committed batch: what came in, what became of it, and whether the rollups show it.
CREATE TABLE analytics.ingestion_batches (
    batch_id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ingestor           text        NOT NULL,           -- host:pid of the process that wrote it
    correlation_id     text        NOT NULL DEFAULT gen_random_uuid(),  -- names it in the logs of every process
    received           integer     NOT NULL CHECK (received >= 0),          -- valid events in the batch
    inserted           integer     NOT NULL CHECK (inserted >= 0),          -- events stored by it
    dedupe_conflicts   integer     NOT NULL CHECK (dedupe_conflicts >= 0),  -- duplicates, not stored
    content_conflicts  integer     NOT NULL CHECK (content_conflicts >= 0), -- duplicates that differ from the first
    late_arrival       integer     NOT NULL CHECK (late_arrival >= 0),      -- stored over an hour after they occurred
    oldest_occurred_at timestamptz,  -- bounds of its events' occurred_at, to find the right partitions
    newest_occurred_at timestamptz,
    received_at        timestamptz NOT NULL,           -- when its first event reached the ingestor
    committed_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    rolled_up_at       timestamptz,
    CHECK (received = inserted + dedupe_conflicts),
    CHECK (content_conflicts <= dedupe_conflicts),
    CHECK (inserted = 0 OR (oldest_occurred_at IS NOT NULL AND newest_occurred_at IS NOT NULL))
);
CREATE INDEX ingestion_batches_pending ON analytics.ingestion_batches (batch_id)
    WHERE rolled_up_at IS NULL;
CREATE INDEX ingestion_batches_committed ON analytics.ingestion_batches
    USING brin (committed_at) WITH (pages_per_range = 32, autosummarize = on);

-- Rollups: sums of committed batches. Tokens are numeric because a sum of bigints may pass 2^63.
-- latency_bins and latency_counts are parallel arrays: bin numbers of analytics.latency_bin() and how
-- many events fell there. A bin may stand there several times (see analytics.latency_append); readers
-- sum by bin.
CREATE TABLE analytics.hourly_rollups (
    org_id              uuid           NOT NULL,
    bucket_start        timestamptz    NOT NULL,
    model_id            text COLLATE "C" NOT NULL,
    invocations         bigint         NOT NULL CHECK (invocations > 0),
    errors              bigint         NOT NULL CHECK (errors BETWEEN 0 AND invocations),
    status_error        bigint         NOT NULL,
    status_timeout      bigint         NOT NULL,
    status_throttled    bigint         NOT NULL,
    input_tokens        numeric        NOT NULL,
    output_tokens       numeric        NOT NULL,
    cost_estimate_cents numeric        NOT NULL,
    latency_bins        smallint[]     NOT NULL,
    latency_counts      bigint[]       NOT NULL,
    PRIMARY KEY (org_id, bucket_start, model_id),
    CHECK (errors = status_error + status_timeout + status_throttled),
    CHECK (cardinality(latency_bins) = cardinality(latency_counts))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE analytics.daily_rollups (LIKE analytics.hourly_rollups INCLUDING ALL)
    WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- The histograms change with every batch; compressing them each time would cost more than it saves.
ALTER TABLE analytics.hourly_rollups ALTER latency_bins SET STORAGE EXTERNAL, ALTER latency_counts SET STORAGE EXTERNAL;
ALTER TABLE analytics.daily_rollups ALTER latency_bins SET STORAGE EXTERNAL, ALTER latency_counts SET STORAGE EXTERNAL;

CREATE TABLE analytics.hourly_error_codes (
    org_id       uuid        NOT NULL,
    bucket_start timestamptz NOT NULL,
    model_id     text COLLATE "C" NOT NULL,
    error_code   text COLLATE "C" NOT NULL,
    events       bigint      NOT NULL CHECK (events > 0),
    PRIMARY KEY (org_id, bucket_start, model_id, error_code)
) WITH (fillfactor = 80);
CREATE TABLE analytics.daily_error_codes (LIKE analytics.hourly_error_codes INCLUDING ALL) WITH (fillfactor = 80);

-- What the rollups show of each model: the newest event and when it was added. Lag is not here: it is
-- computed when asked (analytics.freshness_status), so that it grows while the worker is dead.
CREATE TABLE analytics.model_freshness (
    org_id         uuid        NOT NULL,
    model_id       text COLLATE "C" NOT NULL,
    last_event_at  timestamptz NOT NULL,
    last_rollup_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, model_id)
) WITH (fillfactor = 70);

-- Reads that cross the line between organisations, written before they are answered.
CREATE TABLE analytics.audit_log (
    org_id        uuid        NOT NULL,
    audit_id      bigint GENERATED ALWAYS AS IDENTITY,
    occurred_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    decision      text        NOT NULL CHECK (decision IN ('cross-org', 'unbound')),
    actor_subject text        NOT NULL,
    actor_roles   text        NOT NULL,
    actor_orgs    text        NOT NULL,
    method        text        NOT NULL,
    path          text        NOT NULL,
    request_id    text        NOT NULL,
    PRIMARY KEY (org_id, audit_id)
);
