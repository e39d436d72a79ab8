-- Nobody plans by statistics of the ledger's open part: keys are looked for by its index whatever the planner knows. Yet
-- autovacuum gathered them each time that it had grown by a tenth, and with them those of the whole tree: 30,000 rows
-- read at random from the closed parts, as often as once a minute. A closed part keeps what the open one had.
SET LOCAL lock_timeout = '2s';  -- only a vacuum is in the way, which gives way after a second if it is automatic

ALTER TABLE analytics.event_keys SET (autovacuum_analyze_threshold = 2147483647);

-- As in 0023_key_parts.sql, and the first statement.
CREATE OR REPLACE FUNCTION analytics.equip_event_keys() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    ALTER TABLE analytics.event_keys SET (autovacuum_analyze_threshold = 2147483647);
    CREATE TRIGGER refuse_closed AFTER INSERT ON analytics.event_keys REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT WHEN (current_setting('analytics.asks_closed_parts', true) IS DISTINCT FROM 'on')
        EXECUTE FUNCTION analytics.refuse_closed_event_keys();
    CREATE TRIGGER keep_key BEFORE DELETE ON analytics.event_keys
        FOR EACH ROW EXECUTE FUNCTION analytics.keep_event_key();
    GRANT SELECT, INSERT ON analytics.event_keys TO analytics_ingestor;
    GRANT SELECT, DELETE ON analytics.event_keys TO analytics_rollup_worker;
END
$$;
