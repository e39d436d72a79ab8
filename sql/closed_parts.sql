-- name: list_parts
-- The closed parts of the ledger, each with the number of its filter's blocks where that is made.
SELECT part, CASE WHEN filter_made THEN filter_blocks END FROM analytics.key_parts
WHERE merges IS NULL ORDER BY part;

-- name: read_slice
-- A slice of a part's filter. In binary, which costs a third of what the text of a bytea does.
COPY (SELECT bits FROM analytics.key_filters WHERE part = %(part)s AND slice = %(slice)s)
TO STDOUT (FORMAT binary);

-- name: find_in_parts
-- Those of the given keys that closed parts have, each key looked for in its part alone, as find_known in ingest.sql. A
-- case for each part: such looks are planned in a third of the time that a join for each takes.
SELECT event_id::text, org_id::text, content_digest
FROM (
    SELECT event_id, org_id, CASE part {looks} END AS content_digest
    FROM unnest(%(parts)s::text[], %(event_ids)s::uuid[], %(org_ids)s::uuid[]) AS given (part, event_id, org_id)
    OFFSET 0
) AS known
WHERE content_digest IS NOT NULL;

-- name: look
-- What find_in_parts has for each part, without the semicolon.
WHEN '{table}' THEN (SELECT content_digest FROM analytics.{table} AS key
                     WHERE key.event_id = given.event_id AND key.org_id = given.org_id LIMIT 1);

-- name: close_part
-- Closes the open part if it is large or old enough; returns its number, or NULL.
SELECT analytics.close_event_keys(%(max_keys)s, %(max_age)s, coalesce(%(as_of)s, now()));

-- name: drop_part
-- Drops the oldest part that was closed longer ago than the window; returns its number of keys, or NULL if there is
-- none.
SELECT analytics.drop_event_keys(coalesce(%(as_of)s, now()) - %(window)s);

-- name: measure_parts
-- How many closed parts there are, how many of them lack a filter, and about how many keys there are in all: a key
-- takes 77 bytes of its table.
SELECT count(*), count(*) FILTER (WHERE NOT filter_made),
       coalesce(sum(coalesce(keys, pg_relation_size(to_regclass('analytics.event_keys_' || part)) / 77)), 0)
           + pg_relation_size('analytics.event_keys') / 77
FROM analytics.key_parts WHERE merges IS NULL;

-- name: list_small_parts
-- The closed parts with less keys than a merged one has, in order of time.
SELECT part, opened_at, closed_at FROM analytics.key_parts
WHERE merges IS NULL AND filter_made AND keys < %(max_keys)s ORDER BY opened_at, part;

-- name: merge_parts
-- Does the next step of a merge, or begins one of these parts; returns whether it did something.
SELECT analytics.merge_event_keys(%(parts)s);

-- name: replace_parts
-- Puts a merged part in the place of those that it was made of; returns its number, or NULL if none is ready.
SELECT analytics.replace_event_keys();

-- name: allow_time
-- Lets the transaction's statements take so long: a part of many keys is copied, and indexed, in one.
SET LOCAL statement_timeout = '30min';

-- name: claim_part
-- The newest part without a filter that no other worker is at, how large its filter is if that is begun, how many of
-- its slices there are, and its pages. The newest is the smallest: one that was there before takes long.
SELECT part, filter_blocks,
       (SELECT count(*) FROM analytics.key_filters AS filter WHERE filter.part = parts.part) AS slices,
       coalesce(pg_relation_size(to_regclass('analytics.event_keys_' || part)), 0)
           / current_setting('block_size')::integer AS pages
FROM analytics.key_parts AS parts
WHERE ready AND NOT filter_made ORDER BY part DESC LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: read_ids
-- The event ids of some pages of a part.
COPY (SELECT event_id FROM analytics.{table}
      WHERE ctid >= format('(%%s,0)', %(first_page)s)::tid AND ctid < format('(%%s,0)', %(end_page)s)::tid)
TO STDOUT (FORMAT binary);

-- name: store_slice
-- Stores a slice of a part's filter.
INSERT INTO analytics.key_filters (part, slice, bits) VALUES (%(part)s, %(slice)s, %(bits)s);

-- name: note_filter
-- Notes how far a part's filter is.
UPDATE analytics.key_parts SET filter_blocks = %(blocks)s, filter_made = %(made)s, keys = %(keys)s WHERE part = %(part)s;
