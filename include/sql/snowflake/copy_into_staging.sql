-- Loads the exported files into this attempt's staging table.
-- Effect: all rows of all files, or none.
--
-- The statement gives every option that COPY has for Parquet, also those at their default: so neither the file format
-- of the stage nor a changed default of Snowflake has an effect. Changing an option changes the loaded values.
--
-- PATTERN excludes the files that Databricks writes beside the data: _SUCCESS, _started_<id>, _committed_<id>.
-- FILE_FORMAT:
--   COMPRESSION = AUTO: each file names its compression, which Databricks chooses (Snappy, Zstandard).
--   USE_VECTORIZED_SCANNER = TRUE: a MAP becomes an object, and a NULL inside a nested value stays. Without it, maps
--     become lists of entries and such NULLs are lost. Snowflake plans to make it the default.
--   USE_LOGICAL_TYPE = TRUE: a date is a date, not a number. The vectorized scanner always assumes TRUE.
--   BINARY_AS_TEXT = FALSE: bytes stay bytes. The vectorized scanner always assumes FALSE.
--   TRIM_SPACE = FALSE: blanks around a text are kept.
--   REPLACE_INVALID_CHARACTERS = FALSE: bytes that are not valid UTF-8 end the load; they are not silently replaced.
--   NULL_IF = (): no text becomes NULL. The default turns the two characters \N into NULL. (sqlfluff does not know
--     the empty list, hence noqa.)
-- MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE: columns are matched by name; Databricks ignores the case of names.
-- ON_ERROR = 'ABORT_STATEMENT': the first bad value ends the load, and no row is loaded.
-- TRUNCATECOLUMNS = FALSE: a text that is too long for its column ends the load; it is not truncated.
-- FORCE = FALSE: a repeated statement does not load a file again that this table has loaded.
-- LOAD_UNCERTAIN_FILES = FALSE: files are uncertain when the table's memory of loaded files has expired. This table is
--   new in each sync, so its memory has not.
-- PURGE = FALSE: the files stay, for a repetition; the bucket's lifecycle rule deletes them, and Snowflake may only
--   read.
-- RETURN_FAILED_ONLY = FALSE: the answer has a row for each file, which the step counts.
--
-- Options left out, because any value would change what is loaded, or is an error:
--   ENFORCE_LENGTH is the inverse of TRUNCATECOLUMNS; one of the two is enough.
--   SIZE_LIMIT stops before all files are loaded; it has no value for "no limit".
--   INCLUDE_METADATA fills columns of the table with facts about the file; the staging table has no such columns.
--   VALIDATION_MODE loads nothing, and cannot be combined with MATCH_BY_COLUMN_NAME.
--   FILES names files one by one; PATTERN selects them here.
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
