-- Schema for the staging tables of the runs. The target's own schema belongs to the people who own the target.
-- Effect: creates what is missing, changes nothing that exists.

CREATE SCHEMA IF NOT EXISTS {{ share.STAGING_SCHEMA }};
