-- What differs where a Citus cluster spreads organisations over its nodes; see rollup_worker/spread.py.

-- name: is_spread
-- Whether they are.
SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL;

-- name: lock_moves
-- Keeps others from adding hours to days until the end of the transaction.
SELECT pg_advisory_xact_lock(hashtext('analytics.day_moves'));

-- name: begin_move
-- Says to everybody, at once, that an hour is being added to days.
SELECT setval('analytics.day_moves', (SELECT coalesce(max(moves), 0) + 1 FROM analytics.rollup_dimensions));

-- name: move
-- Says it to those who see the days with the hour.
UPDATE analytics.rollup_dimensions SET moves = (SELECT coalesce(max(moves), 0) + 2 FROM analytics.rollup_dimensions)
WHERE name = '';

-- name: end_move
-- Says that it was added, on every node, or not at all.
SELECT setval('analytics.day_moves', (SELECT coalesce(max(moves), 0) FROM analytics.rollup_dimensions));

-- name: prepared
-- The transactions that each node has prepared and not ended yet.
SELECT nodename, nodeport, success, result
FROM run_command_on_workers($$SELECT coalesce(string_agg(gid, ' '), '') FROM pg_prepared_xacts WHERE database = current_database()$$);
