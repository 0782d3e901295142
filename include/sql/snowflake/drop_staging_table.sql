-- Drops one staging table, by the name that Snowflake lists it under.

DROP TABLE IF EXISTS {{ share.staging_schema }}.{{ identifier(table) }};
