-- The warehouse of the syncs. Their own, so that the cost of loading shows by itself and no query of other people waits
-- for a load.
-- Effect: creates it when it is missing, changes nothing that exists.

USE ROLE sysadmin;

-- The smallest size: a larger one loads more files at the same time, and gains nothing while exports have few.
-- It stops after a minute of rest, as each start is billed for a minute at least, and wakes up by itself.
-- An hour is what a dataset allows each statement too, unless its file has another load_timeout_minutes; the default,
-- two days, would let a forgotten statement run up costs. The shorter of both ends a statement.
CREATE WAREHOUSE IF NOT EXISTS load_wh
WAREHOUSE_SIZE = XSMALL
AUTO_SUSPEND = 60
AUTO_RESUME = TRUE
INITIALLY_SUSPENDED = TRUE
STATEMENT_TIMEOUT_IN_SECONDS = 3600
COMMENT = 'Loads the data share';
