-- Lists the staging tables of all attempts of one run. In LIKE, an underscore matches any character, so the list may
-- contain other tables: the step that drops them checks the names again.

SHOW TABLES LIKE '%{{ sync.key }}%' IN SCHEMA {{ share.staging_schema }};
