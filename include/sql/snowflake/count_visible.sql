-- Returns the number of rows of the target, from Snowflake's list of tables, and the number that the loader sees; used
-- for a target with a row access policy. In this order: rows that others insert in between do not look like hidden
-- rows. Changes nothing.

SHOW TABLES LIKE {{ sync.dataset.target_shown_as | sql_string }} IN SCHEMA {{ sync.dataset.target_schema }};

SELECT COUNT(*) AS visible
FROM {{ sync.dataset.target }};
