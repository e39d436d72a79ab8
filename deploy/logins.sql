-- The logins of the processes and of those who watch them, each with the least it needs. Run it with psql after
-- the migrations, which make the roles; run it again with another password to change that one:
--
--   psql "$OWNER_URL" -v gateway="$GATEWAY_PASSWORD" -v ingestor=... -v rollup_worker=... -v export_worker=... \
--        -v scaler=... -v grafana=... -f deploy/logins.sql
\set ON_ERROR_STOP on
\set QUIET on

SELECT format('CREATE ROLE %I LOGIN', login)
FROM unnest(ARRAY['gateway', 'ingestor', 'rollup_worker', 'export_worker', 'scaler', 'grafana']) AS login
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login) \gexec

ALTER ROLE gateway PASSWORD :'gateway';
ALTER ROLE ingestor PASSWORD :'ingestor';
ALTER ROLE rollup_worker PASSWORD :'rollup_worker';
ALTER ROLE export_worker PASSWORD :'export_worker';
ALTER ROLE scaler PASSWORD :'scaler' CONNECTION LIMIT 2;
ALTER ROLE grafana PASSWORD :'grafana' CONNECTION LIMIT 5;
ALTER ROLE grafana SET statement_timeout = '30s';  -- a window that is too long fails, and the fleet goes on

GRANT analytics_gateway TO gateway;
GRANT analytics_ingestor TO ingestor;
GRANT analytics_rollup_worker TO rollup_worker;
GRANT analytics_export_worker TO export_worker;

-- KEDA counts export jobs, the dashboards sum rollups; neither may write.
GRANT USAGE ON SCHEMA analytics TO scaler, grafana;
GRANT SELECT (status, not_before, due_at) ON analytics.export_jobs TO scaler;
GRANT SELECT ON analytics.rollups, analytics.hourly_rollups, analytics.hourly_error_codes, analytics.rollup_dimensions,
    analytics.rollups_error_code_hours TO grafana;  -- what the view shows: on Citus its owner's rights end at the coordinator
