-- Proves for the old rows what holds for the new ones, so that attaching their tables reads nothing. A scan of
-- each table, beside which everybody reads and writes.
ALTER TABLE analytics.hourly_rollups VALIDATE CONSTRAINT hourly_rollups_part;
ALTER TABLE analytics.daily_rollups VALIDATE CONSTRAINT daily_rollups_part;
ALTER TABLE analytics.rollups_error_code_hours VALIDATE CONSTRAINT rollups_error_code_hours_part;
ALTER TABLE analytics.rollups_error_code_days VALIDATE CONSTRAINT rollups_error_code_days_part;
