-- The warehouse of the syncs. It is separate, so that the cost of loading is visible, and other people's queries do not
-- wait for a load.
-- Effect: creates it if it is missing, changes nothing that exists.

USE ROLE sysadmin;

-- The smallest size: a larger warehouse only loads more files at the same time, which does not help with few files.
-- It suspends after an idle minute, since each start is billed for at least a minute, and resumes by itself.
-- The timeout is an hour, like the default of load_timeout_minutes in a dataset file; Snowflake's default of two days
-- would let a forgotten statement cause costs. The shorter of the two timeouts ends a statement.
CREATE WAREHOUSE IF NOT EXISTS {{ share.warehouse }}
WAREHOUSE_SIZE = XSMALL
AUTO_SUSPEND = 60
AUTO_RESUME = TRUE
INITIALLY_SUSPENDED = TRUE
STATEMENT_TIMEOUT_IN_SECONDS = 3600
COMMENT = 'Loads the data share';
