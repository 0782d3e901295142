-- Loads the manifest of the export that the Databricks run reports.
-- Effect: one row in this attempt's manifest table, if the export has finished.
-- The options are those of copy_into_staging.sql, which gives the reason for each.

COPY INTO {{ sync.new_staging_manifest }}
FROM @{{ share.stage }}/{{ sync.path_in_stage }}manifest/
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
