-- name: try_lock
-- True for the one worker that does the upkeep; released at the end of the transaction.
SELECT pg_try_advisory_xact_lock(hashtext('analytics.upkeep'));

-- name: create_partitions
-- Daily partitions from yesterday to some days ahead; returns how many were missing.
SELECT analytics.create_event_partitions(%(from_day)s, %(to_day)s);

-- name: days_ahead
-- How many days after today have a partition; -1 with TimescaleDB, which needs none made.
SELECT CASE WHEN to_regclass('analytics.usage_events_default') IS NULL THEN -1 ELSE (
    SELECT count(*) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'analytics.usage_events'::regclass
      AND relname > 'usage_events_' || to_char(%(today)s::date, 'YYYYMMDD') AND relname ~ '^usage_events_\d{8}$')
END;

-- name: keep_events
-- Removes raw events older than the retention; returns how many partitions went.
SELECT analytics.keep_events(%(retention)s, %(as_of)s);

-- name: prune_keys
-- Removes some dedupe keys first received before the cutoff.
DELETE FROM analytics.event_keys WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.event_keys WHERE first_received_at < %(cutoff)s LIMIT %(most_rows)s));

-- name: prune_batches
-- Removes some batch records that are rolled up and were committed before the cutoff.
DELETE FROM analytics.ingestion_batches WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.ingestion_batches
    WHERE committed_at < %(cutoff)s AND rolled_up_at IS NOT NULL LIMIT %(most_rows)s));

-- name: prune_hourly
-- Removes some hourly rollups of buckets before the cutoff.
DELETE FROM analytics.hourly_rollups WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.hourly_rollups WHERE bucket_start < %(cutoff)s LIMIT %(most_rows)s));

-- name: prune_daily
-- Removes some daily rollups of buckets before the cutoff.
DELETE FROM analytics.daily_rollups WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.daily_rollups WHERE bucket_start < %(cutoff)s LIMIT %(most_rows)s));

-- name: prune_hourly_error_codes
-- Removes some hourly error codes of buckets before the cutoff.
DELETE FROM analytics.hourly_error_codes WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.hourly_error_codes WHERE bucket_start < %(cutoff)s LIMIT %(most_rows)s));

-- name: prune_daily_error_codes
-- Removes some daily error codes of buckets before the cutoff.
DELETE FROM analytics.daily_error_codes WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.daily_error_codes WHERE bucket_start < %(cutoff)s LIMIT %(most_rows)s));
