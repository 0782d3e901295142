-- Reads the target's row in its lock table: which dataset owns the target, and what was published to it last.

SELECT
  target_database,
  target_schema,
  target_name,
  dataset,
  run_key,
  export_path,
  staged_at
FROM {{ sync.lock_table }}
WHERE {{ sync.is_target }};
