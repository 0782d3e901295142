-- Lists the staging tables of one run, those of all its attempts. An underscore stands for any character in LIKE, so
-- there may be others among them: who drops them looks at the names again.

SHOW TABLES LIKE '%{{ sync.key }}%' IN SCHEMA {{ share.staging_schema }};
