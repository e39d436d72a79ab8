-- The least each process needs. Functions that create or drop partitions run with their owner's
-- rights, so no process owns a table.
REVOKE ALL ON ALL TABLES IN SCHEMA analytics FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA analytics FROM PUBLIC;

GRANT USAGE ON SCHEMA analytics
    TO analytics_ingestor, analytics_rollup_worker, analytics_export_worker, analytics_gateway;
-- Every process checks at start and in /readyz that the schema is the one it was built for.
GRANT SELECT ON analytics.schema_migrations
    TO analytics_ingestor, analytics_rollup_worker, analytics_export_worker, analytics_gateway;

GRANT SELECT, INSERT ON analytics.event_keys, analytics.usage_events, analytics.ingestion_batches TO analytics_ingestor;

GRANT SELECT, UPDATE, DELETE ON analytics.ingestion_batches TO analytics_rollup_worker;
GRANT SELECT, DELETE ON analytics.event_keys TO analytics_rollup_worker;
GRANT SELECT ON analytics.usage_events, analytics.freshness_status TO analytics_rollup_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON analytics.hourly_rollups, analytics.daily_rollups,
    analytics.hourly_error_codes, analytics.daily_error_codes, analytics.model_freshness TO analytics_rollup_worker;
GRANT SELECT ON analytics.latency_bins TO analytics_rollup_worker;
GRANT EXECUTE ON FUNCTION analytics.latency_bin(integer),
    analytics.latency_append(smallint[], bigint[], smallint[], bigint[]),
    analytics.pending_models(uuid), analytics.model_freshness_at(uuid, timestamptz),
    analytics.create_event_partitions(date, date), analytics.keep_events(interval, timestamptz)
    TO analytics_rollup_worker;

GRANT SELECT ON analytics.hourly_rollups, analytics.daily_rollups, analytics.hourly_error_codes,
    analytics.daily_error_codes, analytics.model_freshness, analytics.freshness_status,
    analytics.usage_events, analytics.ingestion_batches, analytics.latency_bins TO analytics_gateway;
GRANT INSERT ON analytics.audit_log TO analytics_gateway;
GRANT EXECUTE ON FUNCTION analytics.latency_bin(integer), analytics.pending_models(uuid),
    analytics.model_freshness_at(uuid, timestamptz) TO analytics_gateway;

GRANT SELECT ON analytics.hourly_rollups, analytics.daily_rollups TO analytics_export_worker;
