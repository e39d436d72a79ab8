-- One organisation's role sees, and makes, its export jobs (0024_scoped_gateway.sql).
SET LOCAL lock_timeout = '2s';  -- a long read holds this up, and this everybody: rather give up and try again

-- For the other roles all is as before.
CREATE POLICY everybody ON analytics.export_jobs USING (true);
-- An equality, so that a statement which names the organisation itself compares once and not row by row.
CREATE POLICY scope ON analytics.export_jobs AS RESTRICTIVE TO analytics_gateway_one_org
    USING (org_id = nullif(current_setting('analytics.scope', true), '')::uuid);
ALTER TABLE analytics.export_jobs ENABLE ROW LEVEL SECURITY;
