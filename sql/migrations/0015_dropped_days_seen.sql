-- The gateway refuses what would need raw events that were dropped.
GRANT SELECT ON analytics.dropped_days TO analytics_gateway;
