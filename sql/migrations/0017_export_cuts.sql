-- Exports by any cut: a job says by what its rows are grouped and in which time zone its buckets begin.
--
-- The release before would make the plain file of such a job. It claims what `not_before` or `lease_until` says is
-- due, so these two hide the job from it: they stand at a time that never comes, and the time that counts is in
-- `due_at`, which only this release reads. A later release drops the trigger and the check.
SET LOCAL lock_timeout = '2s';  -- rather give up and try again than let everybody wait behind a long read

ALTER TABLE analytics.export_jobs
    ADD COLUMN group_by text COLLATE "C" NOT NULL DEFAULT 'model',  -- as the API writes it, model first
    ADD COLUMN time_zone text COLLATE "C" NOT NULL DEFAULT 'UTC',   -- IANA name
    ADD COLUMN due_at timestamptz,          -- of a cut: when it may be claimed; NULL: not_before or lease_until says
    ADD COLUMN complete_since timestamptz,  -- as of answers: what occurred before may be missing; NULL: all is there
    DROP CONSTRAINT export_jobs_check2,     -- a window's length
    DROP CONSTRAINT export_jobs_check3,     -- windows of whole UTC hours or days
    DROP CONSTRAINT export_jobs_check4,
    -- 31 days as asked for, widened to whole days at both ends; local days are longer where clocks are put back.
    ADD CONSTRAINT export_jobs_window_length
        CHECK (window_end - window_start <= CASE time_zone WHEN 'UTC' THEN interval '32 days' ELSE interval '34 days' END),
    -- Local hours and days begin with a quarter of an hour of UTC.
    ADD CONSTRAINT export_jobs_window_start
        CHECK (extract(epoch FROM window_start)
               % CASE WHEN time_zone <> 'UTC' THEN 900 WHEN granularity = 'hourly' THEN 3600 ELSE 86400 END = 0),
    ADD CONSTRAINT export_jobs_window_end
        CHECK (extract(epoch FROM window_end)
               % CASE WHEN time_zone <> 'UTC' THEN 900 WHEN granularity = 'hourly' THEN 3600 ELSE 86400 END = 0),
    ADD CONSTRAINT export_jobs_hidden
        CHECK (CASE WHEN group_by = 'model' AND time_zone = 'UTC' THEN due_at IS NULL
                    ELSE due_at IS NOT NULL AND not_before = '9999-01-01 00:00:00+00'::timestamptz
                         AND coalesce(lease_until, not_before) = not_before END);

CREATE FUNCTION analytics.hide_export_cuts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    never CONSTANT timestamptz := '9999-01-01 00:00:00+00';
BEGIN
    IF NEW.not_before <> never THEN
        NEW.due_at := NEW.not_before;
        NEW.not_before := never;
    END IF;
    IF NEW.lease_until <> never THEN
        NEW.due_at := NEW.lease_until;
        NEW.lease_until := never;
    END IF;
    RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION analytics.hide_export_cuts() FROM PUBLIC;
CREATE TRIGGER export_cuts_hidden BEFORE INSERT OR UPDATE ON analytics.export_jobs
    FOR EACH ROW WHEN (NEW.group_by <> 'model' OR NEW.time_zone <> 'UTC')
    EXECUTE FUNCTION analytics.hide_export_cuts();

GRANT INSERT (group_by, time_zone) ON analytics.export_jobs TO analytics_gateway;
-- Days of zones of :30 and :45 begin in the middle of an hour of UTC, of which only raw events tell.
GRANT SELECT ON analytics.usage_events, analytics.ingestion_batches, analytics.dropped_days TO analytics_export_worker;
GRANT EXECUTE ON FUNCTION analytics.latency_bin(integer) TO analytics_export_worker;
