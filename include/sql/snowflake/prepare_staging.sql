-- Prepares an attempt to copy, and reads in one row what decides whether the data may be loaded.
-- Effect: creates the target's lock table if it is missing; creates the attempt's manifest table, loads the manifest,
-- and stores when it was staged, as publishes to a target follow these times; writes sample values. A repeated request
-- replaces the tables of the attempt, which no other attempt uses.
-- Input: samples, as for write_samples.sql; without columns, there are none.

{% include 'create_lock.sql' %}

CREATE OR REPLACE TABLE {{ sync.new_staging_manifest }} LIKE {{ share.manifest_table }};

{% include 'copy_manifest.sql' %}

UPDATE {{ sync.new_staging_manifest }}
SET staged_at = SYSDATE();

{% if samples.columns -%}
{% include 'write_samples.sql' %}

{% endif -%}
SELECT
  manifest.*,
  {% if samples.columns -%}
  samples.*,
  {% endif -%}
  locked.target_database AS lock_target_database,
  locked.target_schema AS lock_target_schema,
  locked.target_name AS lock_target_name,
  locked.dataset AS lock_dataset,
  locked.run_key AS lock_run_key,
  locked.export_path AS lock_export_path
FROM (
  -- One row, whatever COPY has found.
  SELECT
    COUNT(*) AS manifests,
    MAX(dataset) AS dataset,
    MAX(run_key) AS run_key,
    MAX(row_count) AS row_count,
    MAX(file_count) AS file_count,
    MAX(column_types) AS column_types,
    {% if sync.dataset.incremental -%}
    MAX(export_mode) AS export_mode,
    MAX(from_version) AS from_version,
    MAX(source_version) AS source_version,
    MAX(source_rows) AS source_rows,
    {% endif -%}
    MAX(staged_at) AS staged_at
  FROM {{ sync.new_staging_manifest }}
) AS manifest
{% if samples.columns -%}
CROSS JOIN (SELECT {{ samples.counts }} FROM {{ sync.new_staging_samples }}) AS samples
{% endif -%}
LEFT JOIN (
  SELECT *
  FROM {{ sync.lock_table }}
  WHERE {{ sync.lock_condition }}
) AS locked
  ON TRUE;
