-- The rights of the roles: each one for a statement of include/sql/snowflake/. docs/snowflake.md has them as a table.
-- Tables and the stage have no line here, as the loader creates them and so owns them. For a target that belongs to
-- others, see docs/snowflake.md.
-- Effect: adds rights, takes none away. Safe to run again.

-- May grant on objects whoever owns them.
USE ROLE securityadmin;

-- The syncs compute: COPY INTO, the checks and the publish. The warehouse wakes up for them by itself, so that the
-- loader need not operate it.
GRANT USAGE ON WAREHOUSE load_wh TO ROLE data_share_loader;

-- Nothing in a database can be named without these.
GRANT USAGE ON DATABASE data_share TO ROLE data_share_loader;

GRANT USAGE ON SCHEMA data_share.public TO ROLE data_share_loader;

GRANT USAGE ON SCHEMA data_share.staging TO ROLE data_share_loader;

-- copy_into_staging: the staging tables of each attempt. The run drops them again. create_lock.sql: the lock table
-- of a target, which stays.
GRANT CREATE TABLE ON SCHEMA data_share.staging TO ROLE data_share_loader;

-- copy_into_staging.sql and copy_manifest.sql read the stage through the integration, and each COPY INTO asks for this
-- right, as LIST and CREATE STAGE do. It has to stay: without it, no sync loads anything.
GRANT USAGE ON INTEGRATION s3_share_int TO ROLE data_share_loader;

-- For the DAG set_up_snowflake only. Snowflake asks for the right to create also when the object exists and there is
-- nothing to create. They may be revoked when the DAG has run, and granted again before it runs for a new dataset.
-- create_schemas.sql
GRANT CREATE SCHEMA ON DATABASE data_share TO ROLE data_share_loader;

-- create_ledger.sql, create_target.sql and targets/; and the first sync of a dataset with create_table from_source
GRANT CREATE TABLE ON SCHEMA data_share.public TO ROLE data_share_loader;

-- create_stage.sql
GRANT CREATE STAGE ON SCHEMA data_share.public TO ROLE data_share_loader;

-- The readers: the targets and the ledger, those that exist and those to come. A publish keeps the grants of its
-- target. Readers bring a warehouse of their own.
GRANT USAGE ON DATABASE data_share TO ROLE data_share_reader;

GRANT USAGE ON SCHEMA data_share.public TO ROLE data_share_reader;

GRANT SELECT ON ALL TABLES IN SCHEMA data_share.public TO ROLE data_share_reader;

GRANT SELECT ON FUTURE TABLES IN SCHEMA data_share.public TO ROLE data_share_reader;
