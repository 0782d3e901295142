-- The database of the shared tables, the ledger and the stage, and the schema of the staging tables.
-- Effect: creates what is missing, changes nothing that exists.

USE ROLE sysadmin;

CREATE DATABASE IF NOT EXISTS data_share
COMMENT = 'Tables shared by Databricks, loaded by Airflow';

-- A new database has this schema; here in case that it was dropped.
CREATE SCHEMA IF NOT EXISTS data_share.public;

-- Tables in a transient schema are transient: no fail-safe storage is paid for them. Nor for time travel: each run
-- drops its staging tables, and nobody wants them back.
CREATE TRANSIENT SCHEMA IF NOT EXISTS data_share.staging
DATA_RETENTION_TIME_IN_DAYS = 0
COMMENT = 'Staging tables of the syncs: a pair for each copy; a lock for each target';
