-- An Idempotency-Key belongs to the subject that sent it and no longer to its whole organisation. The
-- release before this goes on writing to idempotency_key, whose UNIQUE its ON CONFLICT needs; a later
-- release drops that column.
ALTER TABLE analytics.export_jobs ADD COLUMN request_key text COLLATE "C";
CREATE UNIQUE INDEX export_jobs_request_key ON analytics.export_jobs (org_id, requested_by, request_key);
GRANT INSERT (request_key) ON analytics.export_jobs TO analytics_gateway;
