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
