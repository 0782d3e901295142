-- Loads the exported files into the run's staging table.
-- The pattern keeps out what Databricks leaves beside the data: _SUCCESS, _started_<id>, _committed_<id>.
-- Effect: all rows of all files, or none.

COPY INTO {{ staging_table(dag_run) }}
FROM @{{ share.STAGE }}/{{ path_in_stage(ti) }}data/
PATTERN = '.*[.]parquet'
FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE)
MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE
ON_ERROR = 'ABORT_STATEMENT';
