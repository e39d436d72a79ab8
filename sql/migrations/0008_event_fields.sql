-- The fields of usage events that cuts need; absent in events of the release before.
ALTER TABLE analytics.usage_events
    ADD COLUMN IF NOT EXISTS provider text,
    ADD COLUMN IF NOT EXISTS operation text,
    ADD COLUMN IF NOT EXISTS api_key_id text,
    ADD COLUMN IF NOT EXISTS cached_input_tokens bigint,
    ADD COLUMN IF NOT EXISTS cache_write_input_tokens bigint,
    ADD COLUMN IF NOT EXISTS reasoning_tokens bigint,
    ADD COLUMN IF NOT EXISTS time_to_first_token_ms integer;
