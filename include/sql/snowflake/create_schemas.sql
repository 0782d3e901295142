-- Schema for the staging tables of the runs. Tables in a transient schema are transient: they cost no fail-safe storage
-- and, with the retention time 0, no Time Travel storage. The schema of a target belongs to the target's owners.
-- Effect: creates what is missing, changes nothing that exists.

CREATE TRANSIENT SCHEMA IF NOT EXISTS {{ share.staging_schema }}
DATA_RETENTION_TIME_IN_DAYS = 0;
