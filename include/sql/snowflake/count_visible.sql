-- Says how many rows the target has, as Snowflake's list of tables knows it, and how many of them the loader sees: for
-- a target with a row access policy. In this order: what others insert meanwhile makes no row hidden. Changes nothing.

SHOW TABLES LIKE {{ sync.dataset.target_shown_as | sql_string }} IN SCHEMA {{ sync.dataset.target_schema }};

SELECT COUNT(*) AS visible
FROM {{ sync.dataset.target }};
