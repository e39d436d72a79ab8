-- One organisation's role sees its rollups (0024_scoped_gateway.sql), read through the table of all parts.
SET LOCAL lock_timeout = '2s';  -- a long read holds this up, and this everybody: rather give up and try again

-- For the other roles all is as before.
CREATE POLICY everybody ON analytics.rollups USING (true);
-- An equality, so that a statement which names the organisation itself compares once and not row by row.
CREATE POLICY scope ON analytics.rollups AS RESTRICTIVE TO analytics_gateway_one_org
    USING (org_id = nullif(current_setting('analytics.scope', true), '')::uuid);
ALTER TABLE analytics.rollups ENABLE ROW LEVEL SECURITY;
