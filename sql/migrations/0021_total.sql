-- Adds integers up in the type that they have. sum() of bigint or numeric keeps a state of its own for each group, and
-- with a hundred thousand groups that is most of the time; a sum that is too large for bigint is an error here, and the
-- reader asks again in numeric.
CREATE AGGREGATE analytics.total(bigint) (
    sfunc = int8pl, stype = bigint, initcond = '0', combinefunc = int8pl, parallel = safe
);
CREATE AGGREGATE analytics.total(numeric) (
    sfunc = numeric_add, stype = numeric, initcond = '0', combinefunc = numeric_add, parallel = safe
);

REVOKE ALL ON FUNCTION analytics.total(bigint), analytics.total(numeric) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION analytics.total(bigint), analytics.total(numeric)
    TO analytics_gateway, analytics_export_worker;
