-- Lists the staging tables of all runs.

SHOW TABLES IN SCHEMA {{ share.staging_schema }};
