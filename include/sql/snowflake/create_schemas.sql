-- Schema for the staging tables of the runs. Tables in a transient schema are transient: no fail-safe storage is paid
-- for them, and no Time Travel. The target's own schema belongs to the people who own the target.
-- Effect: creates what is missing, changes nothing that exists.

CREATE TRANSIENT SCHEMA IF NOT EXISTS {{ share.staging_schema }}
DATA_RETENTION_TIME_IN_DAYS = 0;
