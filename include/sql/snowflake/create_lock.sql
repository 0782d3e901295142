-- The lock table of a target, and the target's row in it. Targets of the same name in several schemas share the table,
-- and have a row each; their publishes wait for each other.
-- The row decides what may be published: which dataset owns the target, and which export of which run was published
-- last. Every publish reads and writes the row in its first statement. An empty run key: nothing was published yet.
-- Effect: creates what is missing, changes nothing that exists. The row exists before the first publish, so that each
-- publish updates it: two publishes at once could both insert one.

CREATE TABLE IF NOT EXISTS {{ sync.lock_table }} (
  target_database VARCHAR NOT NULL,
  target_schema VARCHAR NOT NULL,
  target_name VARCHAR NOT NULL,
  dataset VARCHAR NOT NULL,
  run_key VARCHAR NOT NULL,
  export_path VARCHAR NOT NULL,
  attempt NUMBER(38, 0) NOT NULL,
  staged_at TIMESTAMP_NTZ NOT NULL,
  rows_inserted NUMBER(38, 0),
  rows_updated NUMBER(38, 0),
  rows_deleted NUMBER(38, 0),
  rows_before NUMBER(38, 0),
  rows_after NUMBER(38, 0),
  keys_missing NUMBER(38, 0)
);

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
-- Without a current schema, insert nothing: the next statement of the step reports it.
WHEN NOT MATCHED AND mine.target_database IS NOT NULL AND mine.target_schema IS NOT NULL THEN
  INSERT (target_database, target_schema, target_name, dataset, run_key, export_path, attempt, staged_at)
  VALUES (mine.target_database, mine.target_schema, mine.target_name, '', '', '', 0, '1970-01-01'::TIMESTAMP_NTZ);
