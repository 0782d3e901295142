-- Reads the manifest of this run, after noting when it was staged: publishes of a dataset keep to this order.

UPDATE {{ staging_manifest(dag_run) }}
SET staged_at = SYSDATE();

SELECT
  dataset,
  run_key,
  row_count,
  file_count,
  column_types
FROM {{ staging_manifest(dag_run) }};
