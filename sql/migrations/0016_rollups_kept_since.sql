-- Since when rollups are kept, so that what retention has begun to remove is shown as gone and never as less.
--
-- Buckets go in many small steps, hours before days. Who reads leaves out all that is older than this, which is
-- set with the first step, and says so. NULL until the first step after this migration: nothing is known of
-- earlier ones, some of which may have been made again by a rebuild.
SET LOCAL lock_timeout = '2s';
ALTER TABLE analytics.rollup_dimensions ADD COLUMN kept_since timestamptz;
