-- The database of the shared tables, the ledger and the stage, and the schema of the staging tables.
-- Effect: creates what is missing, changes nothing that exists.

USE ROLE sysadmin;

CREATE DATABASE IF NOT EXISTS {{ share.database }}
COMMENT = 'Tables shared by Databricks, loaded by Airflow';

-- A new database has this schema; this is for a database in which it was dropped.
CREATE SCHEMA IF NOT EXISTS {{ share.database }}.{{ share.target_schema }};

-- Tables in a transient schema are transient: they cost no fail-safe storage. The retention time 0 saves the storage of
-- Time Travel: each run drops its staging tables, and nobody wants them back.
CREATE TRANSIENT SCHEMA IF NOT EXISTS {{ share.database }}.{{ share.staging_schema }}
DATA_RETENTION_TIME_IN_DAYS = 0
COMMENT = 'Staging tables of the syncs: a pair for each copy; a lock for each target';
