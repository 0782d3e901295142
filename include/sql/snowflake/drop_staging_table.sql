-- Drops one staging table, by its name in Snowflake's list of tables.

DROP TABLE IF EXISTS {{ share.staging_schema }}.{{ identifier(table) }};
