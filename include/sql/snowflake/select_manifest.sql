-- Reads the manifest of this run, after noting when it was staged: publishes to a target keep to this order.

UPDATE {{ sync.new_staging_manifest }}
SET staged_at = SYSDATE();

SELECT
  dataset,
  run_key,
  row_count,
  file_count,
  column_types,
  staged_at
FROM {{ sync.new_staging_manifest }};
