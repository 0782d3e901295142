-- Loads an export as a plain script or a DAG of stock operators does; {{ table }}, {{ stage }} and {{ path }} are filled in.
COPY INTO {{ table }}
FROM @{{ stage }}/{{ path }}data/
PATTERN = '.*[.]parquet'
FILE_FORMAT = (TYPE = PARQUET USE_VECTORIZED_SCANNER = TRUE)
MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE
ON_ERROR = 'ABORT_STATEMENT'
