-- The ledger, with one row for each published sync, and the table of the manifests of these syncs.
-- Effect: creates what is missing, with the columns that earlier versions lack; changes nothing else that exists.

CREATE TABLE IF NOT EXISTS {{ share.ledger_table }} (
  run_key VARCHAR NOT NULL,
  dataset VARCHAR NOT NULL,
  dag_run_id VARCHAR NOT NULL,
  attempt NUMBER(38, 0) NOT NULL,
  load_mode VARCHAR NOT NULL,
  source_table VARCHAR NOT NULL,
  target_table VARCHAR NOT NULL,
  rows_exported NUMBER(38, 0) NOT NULL,
  rows_loaded NUMBER(38, 0) NOT NULL,
  rows_inserted NUMBER(38, 0) NOT NULL,
  rows_updated NUMBER(38, 0) NOT NULL,
  rows_deleted NUMBER(38, 0) NOT NULL,
  rows_in_target NUMBER(38, 0) NOT NULL,
  export_path VARCHAR NOT NULL,
  databricks_run_id NUMBER(38, 0) NOT NULL,
  query_ids VARCHAR NOT NULL,
  requested_by VARCHAR,
  started_at TIMESTAMP_NTZ NOT NULL,
  published_at TIMESTAMP_NTZ NOT NULL,
  source_choice VARCHAR,
  source_condition VARCHAR,
  package_version VARCHAR,
  bytes_exported NUMBER(38, 0),
  statement_seconds NUMBER(38, 3)
  {%- for column, type in columns_of_version.items() %},
  {{ column }} {{ type }}{% endfor %}
);

ALTER TABLE {{ share.ledger_table }} ADD COLUMN IF NOT EXISTS source_choice VARCHAR;

ALTER TABLE {{ share.ledger_table }} ADD COLUMN IF NOT EXISTS source_condition VARCHAR;

ALTER TABLE {{ share.ledger_table }} ADD COLUMN IF NOT EXISTS package_version VARCHAR;

ALTER TABLE {{ share.ledger_table }} ADD COLUMN IF NOT EXISTS bytes_exported NUMBER(38, 0);

ALTER TABLE {{ share.ledger_table }} ADD COLUMN IF NOT EXISTS statement_seconds NUMBER(38, 3);

{% for column, type in columns_of_version.items() -%}
ALTER TABLE {{ share.ledger_table }} ADD COLUMN IF NOT EXISTS {{ column }} {{ type }};

{% endfor -%}

CREATE TABLE IF NOT EXISTS {{ share.manifest_table }} (
  run_key VARCHAR NOT NULL,
  dataset VARCHAR NOT NULL,
  source_table VARCHAR NOT NULL,
  row_count NUMBER(38, 0) NOT NULL,
  file_count NUMBER(38, 0) NOT NULL,
  column_types VARCHAR,
  source_choice VARCHAR,
  source_condition VARCHAR,
  bytes_exported NUMBER(38, 0),
  {% for column, type in columns_of_version.items() -%}
  {{ column }} {{ type }},
  {% endfor -%}
  exported_at TIMESTAMP_NTZ NOT NULL,
  staged_at TIMESTAMP_NTZ
);

ALTER TABLE {{ share.manifest_table }} ADD COLUMN IF NOT EXISTS source_choice VARCHAR;

ALTER TABLE {{ share.manifest_table }} ADD COLUMN IF NOT EXISTS source_condition VARCHAR;

ALTER TABLE {{ share.manifest_table }} ADD COLUMN IF NOT EXISTS bytes_exported NUMBER(38, 0);

{% for column, type in columns_of_version.items() -%}
ALTER TABLE {{ share.manifest_table }} ADD COLUMN IF NOT EXISTS {{ column }} {{ type }};

{% endfor -%}
