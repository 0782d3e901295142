-- Lists the staging tables of all runs.

SHOW TABLES IN SCHEMA {{ share.STAGING_SCHEMA }};
