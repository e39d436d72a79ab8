-- Adds one sparse histogram to another. Appending costs a few microseconds, folding equal bins together tens to
-- a thousand, so bins are folded when the array has grown past 192 entries and past twice what the last fold
-- left. Where that is more than 96 entries, one with a count of 0 stands after them to mark the place: it adds
-- nothing to any sum, and every other count is at least 1.
CREATE OR REPLACE FUNCTION analytics.latency_append(
    bins smallint[], counts bigint[], more_bins smallint[], more_counts bigint[],
    OUT latency_bins smallint[], OUT latency_counts bigint[]
) LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    latency_bins := bins || more_bins;
    latency_counts := counts || more_counts;
    IF cardinality(latency_bins) > 192
       AND cardinality(latency_bins) > 2 * coalesce(array_position(latency_counts, 0::bigint), 0) THEN
        SELECT array_agg(folded.bin ORDER BY folded.bin), array_agg(folded.events ORDER BY folded.bin)
        INTO latency_bins, latency_counts
        FROM (SELECT entry.bin, sum(entry.events)::bigint AS events
              FROM unnest(latency_bins, latency_counts) AS entry (bin, events)
              WHERE entry.events > 0
              GROUP BY entry.bin) AS folded;
        IF cardinality(latency_bins) > 96 THEN
            latency_bins := latency_bins || latency_bins[1];
            latency_counts := latency_counts || 0::bigint;
        END IF;
    END IF;
END
$$;
