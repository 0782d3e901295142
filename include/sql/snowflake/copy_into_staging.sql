-- Loads the exported files into this attempt's staging table.
-- Effect: all rows of all files, or none.
--
-- COPY reads Parquet by these options and no others. Each is stated, the ones at their default too: so neither the
-- file format of the stage nor a default that Snowflake changes has a say. Changing one changes what arrives.
--
-- PATTERN keeps out what Databricks leaves beside the data: _SUCCESS, _started_<id>, _committed_<id>.
-- FILE_FORMAT:
--   COMPRESSION = AUTO: each file says itself how it is compressed, and Databricks chooses (Snappy, Zstandard).
--   USE_VECTORIZED_SCANNER = TRUE: a MAP becomes an object and a NULL inside a nested value stays. Without it, maps are
--     lists of entries and such NULLs are lost. It is to become the default.
--   USE_LOGICAL_TYPE = TRUE: a date is a date, not a number. That scanner takes it for TRUE in any case.
--   BINARY_AS_TEXT = FALSE: bytes stay bytes. That scanner takes it for FALSE in any case.
--   TRIM_SPACE = FALSE: blanks around a text belong to it.
--   REPLACE_INVALID_CHARACTERS = FALSE: bytes that are no text end the load; they are not replaced in silence.
--   NULL_IF = (): no text stands for NULL. The default turns the two characters \N into NULL. (sqlfluff does not know
--     the empty list, hence noqa.)
-- MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE: columns are matched by name; Databricks does not mind the case of names.
-- ON_ERROR = 'ABORT_STATEMENT': the first bad value ends the load, and no row stays.
-- TRUNCATECOLUMNS = FALSE: a text that is too long for its column ends the load; it is not cut.
-- FORCE = FALSE: a file that this table has loaded is not loaded again, whatever repeats the statement.
-- LOAD_UNCERTAIN_FILES = FALSE: uncertain are files of which a table may have forgotten that it has loaded them. This
--   table is new in each sync, and forgets nothing.
-- PURGE = FALSE: the files stay, for a repetition; the bucket's lifecycle deletes them, and Snowflake may only read.
-- RETURN_FAILED_ONLY = FALSE: the answer has a row for each file, and these are counted.
--
-- Not stated, as each value but silence would change what is loaded, or is an error:
--   ENFORCE_LENGTH is TRUNCATECOLUMNS in other words; one of the two is enough.
--   SIZE_LIMIT stops before all files are loaded; there is no word for "no limit".
--   INCLUDE_METADATA fills columns of the table with facts about the file; the staging table has none for them.
--   VALIDATION_MODE loads nothing, and does not go together with MATCH_BY_COLUMN_NAME.
--   FILES names files one by one, which PATTERN does not need.
--   LOAD_MODE is for Iceberg tables.
--   CLUSTER_AT_INGEST_TIME is for Snowpipe Streaming.

COPY INTO {{ sync.new_staging_table }}
FROM @{{ share.stage }}/{{ sync.path_in_stage }}data/
PATTERN = '.*[.]parquet'
FILE_FORMAT = ( -- noqa: PRS
    TYPE = PARQUET
    COMPRESSION = AUTO
    USE_VECTORIZED_SCANNER = TRUE
    USE_LOGICAL_TYPE = TRUE
    BINARY_AS_TEXT = FALSE
    TRIM_SPACE = FALSE
    REPLACE_INVALID_CHARACTERS = FALSE
    NULL_IF = ()
)
MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE
ON_ERROR = 'ABORT_STATEMENT'
TRUNCATECOLUMNS = FALSE
FORCE = FALSE
LOAD_UNCERTAIN_FILES = FALSE
PURGE = FALSE
RETURN_FAILED_ONLY = FALSE;
