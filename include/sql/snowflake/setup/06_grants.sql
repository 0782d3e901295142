-- The rights of the roles, each with the statement in include/sql/snowflake/ that needs it; docs/snowflake.md has a
-- table of them. No grant on tables and the stage is needed: the loader creates them and so owns them. For a target
-- that somebody else owns, see docs/snowflake.md.
-- Effect: adds rights, revokes none. Safe to run again.

-- This role may grant rights on all objects, whoever owns them.
USE ROLE securityadmin;

-- For COPY INTO, the checks and the publish. The warehouse resumes by itself, so the loader needs no OPERATE.
GRANT USAGE ON WAREHOUSE {{ share.warehouse }} TO ROLE {{ share.loader_role }};

-- No object of a database can be used without these rights.
GRANT USAGE ON DATABASE {{ share.database }} TO ROLE {{ share.loader_role }};

GRANT USAGE ON SCHEMA {{ share.database }}.{{ share.target_schema }} TO ROLE {{ share.loader_role }};

GRANT USAGE ON SCHEMA {{ share.database }}.{{ share.staging_schema }} TO ROLE {{ share.loader_role }};

-- copy_into_staging: the staging tables of each attempt, which the run drops again, and the lock table of a target,
-- which stays.
GRANT CREATE TABLE ON SCHEMA {{ share.database }}.{{ share.staging_schema }} TO ROLE {{ share.loader_role }};

-- copy_into_staging.sql and copy_manifest.sql: each COPY INTO from the stage requires this right, and so do LIST and
-- CREATE STAGE. Do not revoke it: without it, no sync can load.
GRANT USAGE ON INTEGRATION {{ share.storage_integration }} TO ROLE {{ share.loader_role }};

-- The next three are only for the DAG set_up_snowflake. Snowflake requires the right to create even if the object
-- exists. You may revoke them after the DAG has run, and grant them again before it runs for a new dataset.
-- create_schemas.sql
GRANT CREATE SCHEMA ON DATABASE {{ share.database }} TO ROLE {{ share.loader_role }};

-- create_ledger.sql, create_target.sql and targets/; and the first sync of a dataset with create_table from_source
GRANT CREATE TABLE ON SCHEMA {{ share.database }}.{{ share.target_schema }} TO ROLE {{ share.loader_role }};

-- create_stage.sql
GRANT CREATE STAGE ON SCHEMA {{ share.database }}.{{ share.target_schema }} TO ROLE {{ share.loader_role }};

-- The readers see all existing and future targets, and the ledger. A publish keeps the grants of its target. Readers
-- use their own warehouse.
GRANT USAGE ON DATABASE {{ share.database }} TO ROLE {{ share.reader_role }};

GRANT USAGE ON SCHEMA {{ share.database }}.{{ share.target_schema }} TO ROLE {{ share.reader_role }};

GRANT SELECT ON ALL TABLES IN SCHEMA {{ share.database }}.{{ share.target_schema }} TO ROLE {{ share.reader_role }};

GRANT SELECT ON FUTURE TABLES IN SCHEMA {{ share.database }}.{{ share.target_schema }} TO ROLE {{ share.reader_role }};
