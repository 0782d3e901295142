-- What the live suite takes of Snowflake, and nothing else: docs/live-tests.md has the steps and the table of rights.
-- Before: the storage integration s3_share_int, as include/sql/snowflake/setup/ creates it, or yours in its place.
-- After: `make keys KEY=live` prints a statement that gives a user its public key; run it for the user data_share_live.
-- Effect: creates what is missing, adds rights, changes nothing that exists. remove_live.sql takes all of it away.

USE ROLE useradmin;

-- The role of the suite. It owns the schemas that the suite creates, and with them all that is in them.
CREATE ROLE IF NOT EXISTS data_share_live
COMMENT = 'The live suite of the data share';

-- The same without a right on the storage integration: to find out whether each COPY INTO asks for it.
CREATE ROLE IF NOT EXISTS data_share_live_other
COMMENT = 'The live suite of the data share: who has no right on the storage integration';

GRANT ROLE data_share_live TO ROLE sysadmin;

GRANT ROLE data_share_live_other TO ROLE sysadmin;

USE ROLE sysadmin;

-- Its own, so that what a run costs shows by itself.
CREATE WAREHOUSE IF NOT EXISTS live_wh
WAREHOUSE_SIZE = XSMALL
AUTO_SUSPEND = 60
AUTO_RESUME = TRUE
INITIALLY_SUSPENDED = TRUE
STATEMENT_TIMEOUT_IN_SECONDS = 1800
COMMENT = 'The live suite of the data share';

-- Its own, so that its confinement does not rest on its code alone.
CREATE DATABASE IF NOT EXISTS data_share_live
COMMENT = 'The live suite of the data share';

USE ROLE useradmin;

CREATE USER IF NOT EXISTS data_share_live
  TYPE = SERVICE -- noqa: CP02
  DEFAULT_ROLE = data_share_live
  DEFAULT_SECONDARY_ROLES = ()
  DEFAULT_WAREHOUSE = live_wh
  COMMENT = 'The live suite of the data share; signs in with a key pair';

GRANT ROLE data_share_live TO USER data_share_live;

GRANT ROLE data_share_live_other TO USER data_share_live;

USE ROLE securityadmin;

GRANT USAGE ON WAREHOUSE live_wh TO ROLE data_share_live;

GRANT USAGE, CREATE SCHEMA ON DATABASE data_share_live TO ROLE data_share_live;

GRANT USAGE ON INTEGRATION s3_share_int TO ROLE data_share_live;

GRANT USAGE ON WAREHOUSE live_wh TO ROLE data_share_live_other;

GRANT USAGE ON DATABASE data_share_live TO ROLE data_share_live_other;

-- For one assumption only, about policies. They need Enterprise Edition, and hold for the whole account: leave the next
-- two statements out where that is too much, and the assumption is not tried.
USE ROLE accountadmin;

GRANT APPLY MASKING POLICY ON ACCOUNT TO ROLE data_share_live;

GRANT APPLY ROW ACCESS POLICY ON ACCOUNT TO ROLE data_share_live;
