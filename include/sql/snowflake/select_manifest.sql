-- Reads the manifest of this run.

SELECT
  dataset,
  run_key,
  row_count
FROM {{ staging_manifest(dag_run) }};
