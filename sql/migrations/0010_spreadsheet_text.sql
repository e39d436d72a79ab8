-- The one rule for texts in CSV files: one that a spreadsheet would run as a formula gets an apostrophe before it.
-- It would where the first visible character is = + - or @, in any of the forms that count as them (fullwidth
-- and small forms, the minus sign), whatever white space, control or invisible characters come before; and a text
-- that begins with a tab or a line break is split by some programs, so that what follows begins a cell.
CREATE FUNCTION analytics.spreadsheet_text(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN value ~ ('^([\t\n\r]|[\u0001-\u0020\u007F-\u00A0\u00AD\u034F\u061C\u1680\u180E\u2000-\u200F\u2028-\u202F'
                  || '\u205F-\u206F\u3000\uFEFF]*[-=+@\u2212\uFE62\uFE63\uFE66\uFE6B\uFF0B\uFF0D\uFF1D\uFF20])')
    THEN '''' || value
    ELSE value
END;
REVOKE ALL ON FUNCTION analytics.spreadsheet_text(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION analytics.spreadsheet_text(text) TO analytics_export_worker, analytics_gateway;
