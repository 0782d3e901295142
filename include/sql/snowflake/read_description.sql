-- Reads the manifest that a run of the export job has written with mode describe, and nothing else.
-- Effect: creates a table in the staging schema, and loads the manifest. Whoever runs this drops the table, on every
-- way; clean_up_share drops it too, as it is named like the staging tables of a run.

CREATE OR REPLACE TABLE {{ sync.new_staging_manifest }} (
  run_key VARCHAR,
  dataset VARCHAR,
  source_table VARCHAR,
  row_count NUMBER(38, 0),
  column_types VARCHAR,
  columns_that_stay VARCHAR,
  source_choice VARCHAR,
  source_condition VARCHAR,
  source_version NUMBER(38, 0),
  source_committed_at TIMESTAMP_NTZ,
  export_reason VARCHAR,
  exported_at TIMESTAMP_NTZ
);

{% include 'copy_manifest.sql' %}

SELECT *
FROM {{ sync.new_staging_manifest }};
