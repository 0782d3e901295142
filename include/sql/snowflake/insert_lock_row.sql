-- Inserts the target's row into its lock table, before the first publish: so each publish updates a row. If publishes
-- inserted it, two at once could both insert one.
-- Effect: inserts the row if it is missing, changes nothing that exists.

MERGE INTO {{ sync.lock_table }} AS locked
USING (
  SELECT
    {{ sync.target_key.target_database }} AS target_database,
    {{ sync.target_key.target_schema }} AS target_schema,
    {{ sync.target_key.target_name }} AS target_name
) AS mine
  ON
    locked.target_database = mine.target_database
    AND locked.target_schema = mine.target_schema
    AND locked.target_name = mine.target_name
WHEN NOT MATCHED THEN
  INSERT (target_database, target_schema, target_name, dataset, run_key, export_path, attempt, staged_at)
  VALUES (mine.target_database, mine.target_schema, mine.target_name, '', '', '', 0, '1970-01-01'::TIMESTAMP_NTZ);
