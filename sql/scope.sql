-- How transactions of the gateway begin: as whom they read (sql/migrations/0024_scoped_gateway.sql).

-- name: one_org
-- Sees the organisation of the scope, and without one nothing of any.
SET LOCAL ROLE analytics_gateway_one_org;

-- name: scope
-- Names the organisation.
SELECT analytics.set_scope(%(org_id)s);

-- name: all_orgs
-- Sees all organisations.
SET LOCAL ROLE analytics_gateway_all_orgs;

-- name: state
-- Names the state of the database that this transaction sees, for others to see the same until it ends.
SELECT pg_export_snapshot();

-- name: same_state
-- Sees that state.
SET TRANSACTION SNAPSHOT %(state)s;
