-- Roles of the gateway's, so that a statement that has lost its WHERE finds nothing foreign.
--
-- Each of its transactions begins with SET LOCAL ROLE: analytics_gateway_one_org sees the organisation that
-- analytics.scope names, and nothing while it names none; analytics_gateway_all_orgs sees all (sql/scope.sql). Neither
-- has a right to keys, to partitions, or to raw events but through the view below. The gateway of the release before
-- knows nothing of it and goes on as analytics_gateway, whose rights a later release takes away.
DO $$
BEGIN
    FOR try IN 1..100 LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'analytics_gateway_all_orgs') THEN
                CREATE ROLE analytics_gateway_all_orgs NOLOGIN;
            END IF;
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'analytics_gateway_one_org') THEN
                CREATE ROLE analytics_gateway_one_org NOLOGIN;
            END IF;
            -- What one may, the other may of one organisation.
            IF NOT pg_has_role('analytics_gateway_one_org', 'analytics_gateway_all_orgs', 'MEMBER') THEN
                GRANT analytics_gateway_all_orgs TO analytics_gateway_one_org;
            END IF;
            -- The gateway may become them and does not inherit from them: else their policies were its own.
            IF NOT pg_has_role('analytics_gateway', 'analytics_gateway_one_org', 'MEMBER') THEN
                IF current_setting('server_version_num')::integer >= 160000 THEN
                    EXECUTE 'GRANT analytics_gateway_one_org TO analytics_gateway WITH INHERIT FALSE, SET TRUE';
                ELSE
                    ALTER ROLE analytics_gateway NOINHERIT;
                    GRANT analytics_gateway_one_org TO analytics_gateway;
                END IF;
            END IF;
            -- For a gateway that has the owner's login, where the owner may grant this; others need it not.
            IF NOT pg_has_role(current_user, 'analytics_gateway_one_org', 'USAGE') THEN
                BEGIN
                    EXECUTE format('GRANT analytics_gateway_one_org TO %I', current_user);
                EXCEPTION WHEN insufficient_privilege THEN NULL;
                END;
            END IF;
            EXIT;
        EXCEPTION
            -- Roles are shared by all databases of a server: another migration does it right now.
            WHEN duplicate_object OR unique_violation OR internal_error THEN PERFORM pg_sleep(0.05);
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'role analytics_gateway_one_org is missing and this user may not make it'
                    USING HINT = 'Ask an administrator to run: ' || format(
                        'CREATE ROLE analytics_gateway_all_orgs NOLOGIN; CREATE ROLE analytics_gateway_one_org NOLOGIN; '
                        'GRANT analytics_gateway_all_orgs TO analytics_gateway_one_org; %s',
                        CASE WHEN current_setting('server_version_num')::integer >= 160000
                             THEN 'GRANT analytics_gateway_one_org TO analytics_gateway WITH INHERIT FALSE, SET TRUE'
                             ELSE 'ALTER ROLE analytics_gateway NOINHERIT; '
                                  'GRANT analytics_gateway_one_org TO analytics_gateway' END);
        END;
    END LOOP;
END
$$;

-- The raw events that whoever reads may see. A view, because a table with policies takes no COPY, which is how events
-- come in, and no compression of TimescaleDB's. Not a security barrier: those keep joins from the indexes, and what
-- they keep out, functions of whoever reads, the gateway's roles cannot make.
CREATE VIEW analytics.events_in_scope AS
    SELECT org_id, occurred_at, event_id, batch_id, received_at, model_id, status, latency_ms, input_tokens,
           output_tokens, cost_estimate_cents, actor_id, client_id, error_code, metadata, provider, operation,
           api_key_id, cached_input_tokens, cache_write_input_tokens, reasoning_tokens, time_to_first_token_ms
    FROM analytics.usage_events
    WHERE (SELECT current_user <> 'analytics_gateway_one_org')
       OR org_id = (SELECT nullif(current_setting('analytics.scope', true), '')::uuid);

-- As before, of the events in scope.
CREATE OR REPLACE FUNCTION analytics.pending_models(only_org_id uuid)
RETURNS TABLE (org_id uuid, model_id text, last_event_at timestamptz, oldest_received_at timestamptz)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    oldest timestamptz;
    newest timestamptz;
BEGIN
    SELECT min(oldest_occurred_at), max(newest_occurred_at) INTO oldest, newest
    FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL AND inserted > 0;
    IF oldest IS NULL THEN
        RETURN;
    END IF;
    IF only_org_id IS NULL THEN
        RETURN QUERY
            SELECT e.org_id, e.model_id, max(e.occurred_at), min(b.received_at)
            FROM analytics.ingestion_batches b
            JOIN analytics.events_in_scope e ON e.batch_id = b.batch_id
            WHERE b.rolled_up_at IS NULL AND e.occurred_at BETWEEN oldest AND newest
            GROUP BY e.org_id, e.model_id;
    ELSE
        RETURN QUERY
            SELECT e.org_id, e.model_id, max(e.occurred_at), min(b.received_at)
            FROM analytics.ingestion_batches b
            JOIN analytics.events_in_scope e ON e.batch_id = b.batch_id
            WHERE b.rolled_up_at IS NULL AND e.occurred_at BETWEEN oldest AND newest
              AND e.org_id = only_org_id
            GROUP BY e.org_id, e.model_id;
    END IF;
END
$$;

REVOKE ALL ON analytics.events_in_scope FROM PUBLIC;
GRANT SELECT ON analytics.events_in_scope
    TO analytics_gateway_all_orgs, analytics_gateway, analytics_rollup_worker, analytics_export_worker;

GRANT USAGE ON SCHEMA analytics TO analytics_gateway_all_orgs;
GRANT SELECT ON analytics.schema_migrations, analytics.rollups, analytics.rollup_dimensions, analytics.dropped_days,
    analytics.model_freshness, analytics.latency_bins, analytics.export_jobs TO analytics_gateway_all_orgs;
GRANT SELECT (batch_id, inserted, oldest_occurred_at, newest_occurred_at, received_at, rolled_up_at)
    ON analytics.ingestion_batches TO analytics_gateway_all_orgs;
GRANT INSERT (org_id, granularity, window_start, window_end, models, group_by, time_zone, compress, requested_by,
    request_key) ON analytics.export_jobs TO analytics_gateway_all_orgs;
GRANT INSERT ON analytics.audit_log TO analytics_gateway_all_orgs;
GRANT EXECUTE ON FUNCTION analytics.latency_bin(integer), analytics.pending_models(uuid),
    analytics.model_freshness_at(uuid, timestamptz), analytics.freshness_of_lag(double precision),
    analytics.percentiles_ms(smallint[], bigint[]), analytics.spreadsheet_text(text),
    analytics.total(bigint), analytics.total(numeric) TO analytics_gateway_all_orgs;
