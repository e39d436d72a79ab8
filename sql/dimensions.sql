-- name: list
-- The dimensions that are kept, in the order in which every rollup adds to them.
SELECT name, groupable, hours_table, days_table, keeps_hours, hours_kept, complete_since, days_until, holes, halves_table, halves_since
FROM analytics.rollup_dimensions ORDER BY name;

-- name: add
-- Begins to keep a dimension; false where it was kept already. Under lock_rollups.
SELECT analytics.add_rollup_dimension(%(name)s, %(keeps_hours)s, %(hours_kept)s);

-- name: set_hours_kept
-- How long a dimension's hours are kept; NULL for as long as its days.
UPDATE analytics.rollup_dimensions SET hours_kept = %(hours_kept)s
WHERE name = %(name)s AND hours_kept IS DISTINCT FROM %(hours_kept)s::interval;

-- name: drop
-- Drops a dimension with all of its rollups; false where it was not kept. Under lock_rollups.
SELECT analytics.drop_rollup_dimension(%(name)s);

-- name: estimate_rows
-- About how many rows each part has, by the planner's statistics.
SELECT name, 'hour' AS grain, greatest(reltuples, 0)::bigint AS rows
FROM analytics.rollup_dimensions JOIN pg_class ON pg_class.oid = to_regclass('analytics.' || hours_table)
UNION ALL
SELECT name, 'day', greatest(reltuples, 0)::bigint
FROM analytics.rollup_dimensions JOIN pg_class ON pg_class.oid = to_regclass('analytics.' || days_table);

-- name: hour_to_add
-- The first hour that is over and that a dimension's days do not hold yet, with its tables. Under lock_rollups.
SELECT days_until FROM analytics.rollup_dimensions
WHERE name = %(name)s AND days_until < date_trunc('hour', now() - interval '10 minutes', 'UTC');

-- name: hour_added
-- The dimension's days hold the hour; in the transaction that added it.
UPDATE analytics.rollup_dimensions SET days_until = days_until + interval '1 hour' WHERE name = %(name)s;

-- name: lower_complete_since
-- A dimension is complete since the start of a day that was made again, if it was from the day's end; in the
-- transaction that made the last of it. Not if a batch was rolled up without it meanwhile. Nothing was before the
-- oldest rollup.
UPDATE analytics.rollup_dimensions
SET complete_since = CASE WHEN EXISTS (SELECT 1 FROM analytics.daily_rollups WHERE bucket_start < %(day)s)
                          THEN %(day)s::timestamptz END
WHERE name = %(name)s AND holes = %(holes)s AND complete_since > %(day)s AND complete_since <= %(next_day)s;

-- name: lower_kept_since
-- A dimension's rollups are kept since the start of a day that was made again, if they were from the day's end.
UPDATE analytics.rollup_dimensions SET kept_since = %(day)s
WHERE name = %(name)s AND kept_since > %(day)s AND kept_since <= %(next_day)s;

-- name: lower_halves_since
-- A dimension has the halves of hours since the start of a day that was made again, if it had from the day's end. Not
-- if a batch was rolled up without them meanwhile. Nothing was before the oldest rollup.
UPDATE analytics.rollup_dimensions
SET halves_since = CASE WHEN EXISTS (SELECT 1 FROM analytics.daily_rollups WHERE bucket_start < %(day)s)
                        THEN %(day)s::timestamptz END
WHERE name = %(name)s AND holes = %(holes)s AND halves_since > %(day)s AND halves_since <= %(next_day)s;

-- name: orgs_of_day
-- Organisations that have rollups of a UTC day, or events at all, and how many events the day's rollups show.
SELECT org_id::text, coalesce(sum(invocations), 0)::bigint
FROM (SELECT org_id, 0 AS invocations FROM analytics.model_freshness WHERE last_event_at >= %(day)s
      UNION ALL
      SELECT org_id, invocations FROM analytics.daily_rollups WHERE bucket_start = %(day)s
      UNION ALL
      SELECT org_id, 0 FROM analytics.hourly_rollups WHERE bucket_start >= %(day)s AND bucket_start < %(next_day)s
     ) AS known
WHERE %(org_id)s::uuid IS NULL OR org_id = %(org_id)s::uuid
GROUP BY org_id ORDER BY org_id;

-- name: oldest_day
-- The oldest UTC day that has rollups.
SELECT min(bucket_start) FROM analytics.daily_rollups;

-- name: listen
-- Hears of batches as they are committed.
LISTEN analytics_batches;
