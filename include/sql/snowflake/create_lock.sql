-- The lock table of a target. Targets of the same name in several schemas share it, and have a row each; their
-- publishes wait for each other.
-- The row decides what may be published: which dataset owns the target, and which export of which run was published
-- last. Every publish reads and writes the row in its first statement. An empty run key: nothing was published yet.
-- The last columns say which state of the source was published last.
-- Effect: creates the table if it is missing; add_lock_columns.sql adds the columns that earlier versions lack.
-- insert_lock_row.sql inserts the row.

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
  {%- for column, type in columns_of_version.items() %},
  {{ column }} {{ type }}{% endfor %}
);
