-- The tables that grow with traffic, spread over the nodes of a Citus cluster by organisation. Run by shared.migrate on
-- the coordinator; all else stays there. What stays is one for all organisations: the ledger of keys, the batches, the
-- jobs. Citus takes the place of nothing here: on one server none of it is run.

-- name: has_citus
-- Whether the database is a coordinator's.
SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus');

-- name: is_distributed
-- Whether the tables are spread already.
SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'analytics.usage_events'::regclass);

-- name: has_nodes
-- Whether there are nodes to spread them over.
SELECT EXISTS (SELECT FROM pg_dist_node WHERE isactive AND shouldhaveshards AND noderole = 'primary');

-- name: has_events
-- Whether there is anything to move.
SELECT EXISTS (SELECT FROM analytics.usage_events);

-- name: take_long
-- Lets the statements that follow take as long as the data need.
SET LOCAL statement_timeout = '24h';

-- name: scope
-- Lets the nodes hold reads to their organisation. The coordinator comes to them as the role of the transaction: it must
-- be able to log in. It hands on the text of a SET LOCAL, and that of the whole message where it stands in one with
-- others; from a function it has a text of its own. It makes restrictive policies permissive, so there is one. A view's
-- owner's rights end at the coordinator.
DO $$
DECLARE
    role text;
BEGIN
    -- Roles are of all databases of a server: another one's migration may be at it.
    FOR role IN SELECT rolname FROM pg_roles
                WHERE rolname IN ('analytics_gateway_one_org', 'analytics_gateway_all_orgs') AND NOT rolcanlogin LOOP
        EXECUTE format('ALTER ROLE %I LOGIN', role);
    END LOOP;
END
$$;
GRANT SELECT ON analytics.usage_events TO analytics_gateway_all_orgs;
CREATE OR REPLACE FUNCTION analytics.set_scope(org_id uuid) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL citus.propagate_set_commands = 'local';
    EXECUTE pg_catalog.format('SET LOCAL analytics.scope = %L', org_id);
    SET LOCAL citus.propagate_set_commands = 'none';
    RETURN org_id;
END
$$;
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['rollups', 'model_freshness'] LOOP
        EXECUTE format('DROP POLICY scope ON analytics.%I', name);
        EXECUTE format('DROP POLICY everybody ON analytics.%I', name);
        EXECUTE format(
            'CREATE POLICY scope ON analytics.%I USING (current_user <> ''analytics_gateway_one_org''
                OR org_id = nullif(current_setting(''analytics.scope'', true), '''')::uuid)', name);
    END LOOP;
END
$$;

-- name: distribute
-- Spreads the tables, moves what they hold, and frees what that took on the coordinator.
DO $$
DECLARE
    part text;
BEGIN
    PERFORM create_reference_table('analytics.latency_bins');
    FOREACH part IN ARRAY ARRAY['usage_events', 'rollups', 'model_freshness'] LOOP
        PERFORM create_distributed_table(
            ('analytics.' || part)::regclass, 'org_id',
            colocate_with => CASE part WHEN 'usage_events' THEN 'default' ELSE 'analytics.usage_events' END);
        PERFORM truncate_local_data_after_distributing_table(('analytics.' || part)::regclass);
    END LOOP;
    UPDATE analytics.rollup_dimensions SET moves = 0 WHERE name = '';
END
$$;
