-- Staging tables of one run: the manifest, and the data as the target has it; and the table of the dataset's turn,
-- which says which sync published last, when it was staged, and what it changed.
-- Effect: makes those of the run anew and empty. A new table has no load history, so a retry of the copy loads every
-- file again. The turn stays. The data comes last: before the first sync of a dataset with create_table from_source,
-- there is no target, and the step goes on without this statement.

CREATE OR REPLACE TABLE {{ staging_manifest(dag_run) }} LIKE {{ share.MANIFEST_TABLE }};

CREATE TABLE IF NOT EXISTS {{ turn_table }} (
  dataset VARCHAR NOT NULL,
  run_key VARCHAR NOT NULL,
  staged_at TIMESTAMP_NTZ NOT NULL,
  rows_inserted NUMBER(38, 0),
  rows_updated NUMBER(38, 0),
  rows_deleted NUMBER(38, 0),
  rows_before NUMBER(38, 0),
  rows_after NUMBER(38, 0),
  keys_missing NUMBER(38, 0)
);

CREATE OR REPLACE TABLE {{ staging_table(dag_run) }} LIKE {{ dataset.target }};
