-- The roles of the data share.
-- Effect: creates what is missing, changes nothing that exists. Run as an account administrator, like the other
-- scripts of this folder, in the order of their numbers: docs/snowflake.md.

USE ROLE useradmin;

-- Airflow's role. It has exactly the rights that a sync needs: 06_grants.sql.
CREATE ROLE IF NOT EXISTS {{ share.loader_role }}
COMMENT = 'Loads the data share: the role of the syncs in Airflow';

-- The role of people who query the shared tables. They need no right to change them.
CREATE ROLE IF NOT EXISTS {{ share.reader_role }}
COMMENT = 'Reads the tables of the data share and the ledger of the syncs';

-- SYSADMIN must be able to administer the tables that the loader creates: without a parent role, only the loader could
-- drop or grant them.
GRANT ROLE {{ share.loader_role }} TO ROLE sysadmin;

GRANT ROLE {{ share.reader_role }} TO ROLE sysadmin;
