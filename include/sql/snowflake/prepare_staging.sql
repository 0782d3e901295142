-- Prepares an attempt to copy, and reads in one row what decides whether the data may be loaded.
-- Effect: creates the target's lock table if it is missing; creates the attempt's manifest table, loads the manifest,
-- and stores when it was staged, as publishes to a target follow these times; writes sample values. A repeated request
-- replaces the tables of the attempt, which no other attempt uses.
-- Input: samples, as for write_samples.sql; without columns, there are none.

{% set of_increment = [
  'export_mode', 'from_version', 'source_version', 'source_table_id', 'source_rows'
] if sync.dataset.incremental or sync.exports_increment or sync.is_verification else [] -%}

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
    {% for column in of_increment -%}
    MAX(its_{{ column }}) AS {{ column }},
    {% endfor -%}
    MAX(staged_at) AS staged_at
  FROM (
    -- By their names, the columns that tables of an earlier version lack: then Snowflake names the one that is missing.
    SELECT
      *
      {%- for column in of_increment %},
      {{ column }} AS its_{{ column }}{% endfor %}
    FROM {{ sync.new_staging_manifest }}
  ) AS manifests
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
