-- Stores the time at which the manifest was staged, and reads the manifest: publishes to a target follow these times.

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
