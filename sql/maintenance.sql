-- name: try_lock
-- True for the one worker that does the upkeep; released at the end of the transaction.
SELECT pg_try_advisory_xact_lock(hashtext('analytics.upkeep'));

-- name: create_partitions
-- Daily partitions from yesterday to some days ahead; returns how many were missing.
SELECT analytics.create_event_partitions(%(from_day)s, %(to_day)s);

-- name: drop_expired_events
-- Removes raw events older than the retention; returns how many partitions went, and how many single rows.
SELECT dropped_partitions, deleted_rows FROM analytics.drop_expired_events(%(retention)s, %(as_of)s, %(max_rows)s);

-- name: now
-- The server's time, by which the upkeep decides what is old: a worker's clock may be wrong.
SELECT now();

-- name: prune_batches
-- Removes some batch records that are rolled up and were committed before the cutoff.
DELETE FROM analytics.ingestion_batches WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.ingestion_batches
    WHERE committed_at < %(cutoff)s AND rolled_up_at IS NOT NULL LIMIT %(max_rows)s));

-- name: prune_rollups
-- Removes some rollups of buckets before the cutoff from a part, of all organisations (NULL) or of one; returns their
-- days.
DELETE FROM analytics.{table} WHERE (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid) AND ctid = ANY (ARRAY(
    SELECT ctid FROM analytics.{table}
    WHERE bucket_start < %(cutoff)s AND (%(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid) LIMIT %(max_rows)s))
RETURNING (bucket_start AT TIME ZONE 'UTC')::date;

-- name: orgs_to_prune
-- Organisations of some rollups of buckets before the cutoff of a part.
SELECT DISTINCT org_id::text
FROM (SELECT org_id FROM analytics.{table} WHERE bucket_start < %(cutoff)s LIMIT %(max_rows)s) AS found;

-- name: prune_models
-- Forgets some models whose newest event is older than the cutoff.
DELETE FROM analytics.model_freshness AS known
USING (SELECT org_id, model_id FROM analytics.model_freshness WHERE last_event_at < %(cutoff)s LIMIT %(max_rows)s) AS old
WHERE known.org_id = old.org_id AND known.model_id = old.model_id AND known.last_event_at < %(cutoff)s;

-- name: note_kept_since
-- Notes that a dimension's rollups of buckets before the cutoff go, in the transaction that removes the first.
UPDATE analytics.rollup_dimensions SET kept_since = %(cutoff)s
WHERE name = %(name)s AND (kept_since IS NULL OR kept_since < %(cutoff)s);

-- name: record_dropped_rollups
-- Records days of which rollups were dropped, in the transaction that drops them.
INSERT INTO analytics.dropped_days (day, what) SELECT DISTINCT day, 'rollups' FROM unnest(%(days)s::date[]) AS day
ON CONFLICT DO NOTHING;
