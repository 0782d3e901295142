-- Reads the manifest of this run, after noting when it was staged: publishes to a target keep to this order.

UPDATE {{ new_staging_manifest(dag_run, ti) }}
SET staged_at = SYSDATE();

SELECT
  dataset,
  run_key,
  row_count,
  file_count,
  column_types,
  staged_at
FROM {{ new_staging_manifest(dag_run, ti) }};
