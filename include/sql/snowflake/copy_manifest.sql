-- Loads the manifest of the export that the Databricks run reports.
-- Effect: one row in the run's manifest table, when the export has finished.

COPY INTO {{ staging_manifest(dag_run) }}
FROM @{{ share.STAGE }}/{{ path_in_stage(ti) }}manifest/
PATTERN = '.*[.]parquet'
FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE)
MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE
ON_ERROR = 'ABORT_STATEMENT';
