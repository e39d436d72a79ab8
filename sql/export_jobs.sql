-- name: create_job
-- Creates a job and returns it; no row when the key is taken: see find_job_by_key.
INSERT INTO analytics.export_jobs (
    org_id, granularity, window_start, window_end, models, group_by, time_zone, compress, requested_by, request_key)
VALUES (%(org_id)s::uuid, %(granularity)s, %(window_start)s, %(window_end)s, %(models)s::text[], %(group_by)s,
        %(time_zone)s, %(compress)s, %(requested_by)s, %(idempotency_key)s)
ON CONFLICT (org_id, requested_by, request_key) DO NOTHING
RETURNING *;

-- name: find_job_by_key
-- The job that took a subject's idempotency key, and in a last column whether the same was asked for. The
-- release before this wrote the key to idempotency_key.
SELECT *,
       granularity = %(granularity)s AND window_start = %(window_start)s AND window_end = %(window_end)s
           AND models IS NOT DISTINCT FROM %(models)s::text[] AND group_by = %(group_by)s
           AND time_zone = %(time_zone)s AND compress = %(compress)s AS same_request
FROM analytics.export_jobs
WHERE org_id = %(org_id)s::uuid AND requested_by = %(requested_by)s
  AND (request_key = %(idempotency_key)s OR idempotency_key = %(idempotency_key)s)
ORDER BY created_at
LIMIT 1;

-- name: find_job
-- One job of an organisation.
SELECT *
FROM analytics.export_jobs
WHERE org_id = %(org_id)s::uuid AND job_id = %(job_id)s::uuid;

-- name: list_jobs
-- An organisation's jobs, newest first, from after a (created_at, job_id) on.
SELECT *
FROM analytics.export_jobs
WHERE org_id = %(org_id)s::uuid
  AND (%(status)s::text IS NULL OR status = %(status)s::text)
  AND (%(before_created_at)s::timestamptz IS NULL
       OR (created_at, job_id) < (%(before_created_at)s::timestamptz, %(before_job_id)s::uuid))
ORDER BY created_at DESC, job_id DESC
LIMIT %(limit)s;

-- name: listen
-- Asks for the notification that every insert of jobs sends.
LISTEN analytics_export_jobs;

-- name: limit_idle
-- Ends this transaction where its worker falls silent within it for as long as its lease lasts.
SET LOCAL idle_in_transaction_session_timeout = %(lease_ms)s;

-- name: claim_job
-- Takes the oldest job that is due or whose lease has ended, and that has attempts left. Of cuts that is due_at:
-- the release before must not see them (sql/migrations/0017_export_cuts.sql).
WITH due AS (
    SELECT org_id, job_id FROM analytics.export_jobs
    WHERE status IN ('pending', 'running') AND attempt < %(max_attempts)s
      AND coalesce(due_at, CASE status WHEN 'pending' THEN not_before ELSE lease_until END) <= now()
    ORDER BY created_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE analytics.export_jobs AS job SET
    status = 'running', attempt = job.attempt + 1, fencing_token = job.fencing_token + 1,
    started_at = coalesce(job.started_at, now()), lease_until = now() + %(lease)s, worker = %(worker)s,
    rows_done = 0, leftovers = job.fencing_token > 0
FROM due
WHERE job.org_id = due.org_id AND job.job_id = due.job_id
RETURNING job.org_id, job.job_id, job.granularity, job.window_start, job.window_end, job.models, job.group_by,
          job.time_zone, job.compress, job.attempt, job.fencing_token;

-- name: seconds_until_due
-- How long until the next retry is due or the next lease ends; NULL when no job waits.
SELECT extract(epoch FROM min(greatest(
           coalesce(due_at, CASE status WHEN 'pending' THEN not_before ELSE lease_until END), created_at)) - now()
       )::double precision AS seconds
FROM analytics.export_jobs
WHERE status IN ('pending', 'running');

-- name: extend_lease
-- Keeps a claimed job and shows its progress; no row when the claim was lost.
UPDATE analytics.export_jobs SET lease_until = now() + %(lease)s, rows_done = %(rows_done)s
WHERE org_id = %(org_id)s::uuid AND job_id = %(job_id)s::uuid AND fencing_token = %(fencing_token)s
  AND status = 'running';

-- name: succeed
-- The object is whole; no row when the claim was lost. Says the same when it is repeated because the
-- first commit's answer was lost.
UPDATE analytics.export_jobs SET
    status = 'succeeded', lease_until = NULL, completed_at = coalesce(completed_at, now()),
    expires_at = coalesce(expires_at, now() + %(retention)s),
    rows_done = %(row_count)s, row_count = %(row_count)s, checksum = %(checksum)s, size_bytes = %(size_bytes)s,
    data_as_of = %(data_as_of)s, complete_since = %(complete_since)s, object_key = %(object_key)s, error = NULL
WHERE org_id = %(org_id)s::uuid AND job_id = %(job_id)s::uuid AND fencing_token = %(fencing_token)s
  AND status IN ('running', 'succeeded');

-- name: fail_attempt
-- The attempt failed: due again after a pause, or failed for good once the attempts are used up.
UPDATE analytics.export_jobs SET
    status = CASE WHEN attempt < %(max_attempts)s THEN 'pending' ELSE 'failed' END,
    completed_at = CASE WHEN attempt < %(max_attempts)s THEN NULL ELSE now() END,
    not_before = now() + %(pause)s, lease_until = NULL, rows_done = 0, error = %(error)s, leftovers = true
WHERE org_id = %(org_id)s::uuid AND job_id = %(job_id)s::uuid AND fencing_token = %(fencing_token)s
  AND status = 'running'
RETURNING status;

-- name: give_back
-- Puts a claimed job back as if this attempt had not been, for a worker that stops.
UPDATE analytics.export_jobs SET
    status = 'pending', attempt = attempt - 1, not_before = now(), lease_until = NULL, rows_done = 0,
    leftovers = true
WHERE org_id = %(org_id)s::uuid AND job_id = %(job_id)s::uuid AND fencing_token = %(fencing_token)s
  AND status = 'running';

-- name: notify
-- Wakes the workers as an insert does.
NOTIFY analytics_export_jobs;

-- name: fail_abandoned
-- Fails the jobs whose last attempt's worker vanished.
UPDATE analytics.export_jobs SET
    status = 'failed', completed_at = now(), lease_until = NULL, leftovers = true, error = %(error)s
WHERE (org_id, job_id) IN (
    SELECT org_id, job_id FROM analytics.export_jobs
    WHERE status IN ('pending', 'running') AND attempt >= %(max_attempts)s
      AND coalesce(due_at, CASE status WHEN 'pending' THEN not_before ELSE lease_until END) <= now()
    FOR UPDATE SKIP LOCKED)
RETURNING org_id, job_id;

-- name: expire
-- From now on these jobs cannot be fetched; their objects are removed next.
UPDATE analytics.export_jobs SET status = 'expired'
WHERE (org_id, job_id) IN (
    SELECT org_id, job_id FROM analytics.export_jobs
    WHERE object_key IS NOT NULL AND status = 'succeeded' AND expires_at <= now()
    ORDER BY expires_at LIMIT %(max_jobs)s
    FOR UPDATE SKIP LOCKED);

-- name: jobs_with_leftovers
-- Finished jobs with objects to remove: all of an expired job's, or those of lost attempts.
SELECT org_id, job_id, CASE status WHEN 'succeeded' THEN object_key END AS object_to_keep
FROM analytics.export_jobs
WHERE (status = 'expired' AND object_key IS NOT NULL) OR (leftovers AND completed_at IS NOT NULL)
LIMIT %(max_jobs)s;

-- name: mark_removed
-- No object of the job exists any more but the one to keep; no row when it expired since it was looked up.
UPDATE analytics.export_jobs SET
    leftovers = false, object_key = CASE status WHEN 'succeeded' THEN object_key END
WHERE org_id = %(org_id)s::uuid AND job_id = %(job_id)s::uuid AND completed_at IS NOT NULL
  AND CASE status WHEN 'succeeded' THEN object_key END IS NOT DISTINCT FROM %(object_to_keep)s::text;

-- name: delete_old_jobs
-- Forgets jobs that ended long ago and have no object any more.
DELETE FROM analytics.export_jobs
WHERE (org_id, job_id) IN (
    SELECT org_id, job_id FROM analytics.export_jobs
    WHERE status IN ('failed', 'expired') AND object_key IS NULL AND NOT leftovers
      AND completed_at <= now() - %(age)s
    LIMIT %(max_jobs)s
    FOR UPDATE SKIP LOCKED);

-- name: counts
-- Jobs by status, and how long ago the oldest was created and first claimed, in seconds.
SELECT status, count(*) AS jobs, extract(epoch FROM now() - min(created_at))::double precision AS since_created,
       extract(epoch FROM now() - min(started_at))::double precision AS since_started
FROM analytics.export_jobs
GROUP BY status;

-- name: schedule_month
-- One monthly job for each organisation with usage in a UTC month; those that have theirs are left alone.
INSERT INTO analytics.export_jobs (org_id, granularity, window_start, window_end, requested_by, scheduled)
SELECT DISTINCT org_id, 'monthly', %(month)s::timestamptz, %(next_month)s::timestamptz, 'schedule-monthly', true
FROM analytics.daily_rollups
WHERE bucket_start >= %(month)s::timestamptz AND bucket_start < %(next_month)s::timestamptz
ON CONFLICT (org_id, granularity, window_start) WHERE scheduled DO NOTHING
RETURNING org_id, job_id;
