-- First halves of those hours in whose middle a day of a zone of :30 begins (18:30 UTC in Kolkata), so that such a day
-- is made of rollups and not of raw events. Models and error codes have a part of grain 30 for them, whose rows hold
-- the first 30 minutes of the hour that bucket_start names. The hours of a dimension may have several rows a group
-- already: there the rows of a second half have a bucket_start of :30, and are merged with those of the first in the
-- other hours alone. Who reads hours reads from an hour to an hour, and meets both.
SELECT pg_advisory_xact_lock(hashtext('analytics.rollups'));
SET LOCAL lock_timeout = '2s';

ALTER TABLE analytics.rollup_dimensions
    ADD COLUMN halves_table text COLLATE "C",  -- NULL: halves are in hours_table
    ADD COLUMN halves_since timestamptz;       -- hours before this may lack their halves; NULL: none does
SELECT analytics.add_rollup_part('', 30, 'rollups_model_halves'),
       analytics.add_rollup_part('errorCode', 30, 'rollups_error_code_halves');
ALTER TABLE analytics.rollups_error_code_halves  -- as the codes' hours and days: codes count, and sum nothing
    ALTER errors SET DEFAULT 0, ALTER status_error SET DEFAULT 0, ALTER status_timeout SET DEFAULT 0,
    ALTER status_throttled SET DEFAULT 0, ALTER input_tokens SET DEFAULT 0, ALTER output_tokens SET DEFAULT 0,
    ALTER cached_input_tokens SET DEFAULT 0, ALTER cache_write_input_tokens SET DEFAULT 0,
    ALTER reasoning_tokens SET DEFAULT 0, ALTER cost_estimate_cents SET DEFAULT 0,
    ALTER success_output_tokens SET DEFAULT 0, ALTER success_latency_ms SET DEFAULT 0,
    ALTER latency_bins SET DEFAULT '{}', ALTER latency_counts SET DEFAULT '{}',
    ALTER first_token_bins SET DEFAULT '{}', ALTER first_token_counts SET DEFAULT '{}';
UPDATE analytics.rollup_dimensions
SET halves_since = analytics.after_last_event(),
    halves_table = CASE name WHEN '' THEN 'rollups_model_halves' WHEN 'errorCode' THEN 'rollups_error_code_halves' END;

-- What a worker of the release before adds lacks the halves of models and of error codes as well.
CREATE OR REPLACE FUNCTION analytics.note_missing_dimensions() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    after_batch CONSTANT timestamptz := date_trunc('hour', NEW.newest_occurred_at, 'UTC') + interval '1 hour';
BEGIN
    UPDATE analytics.rollup_dimensions
    SET complete_since = CASE WHEN groupable OR name = '' THEN greatest(complete_since, after_batch) END,
        halves_since = CASE WHEN groupable THEN halves_since ELSE greatest(halves_since, after_batch) END,
        holes = holes + 1;
    RETURN NULL;
END
$$;
