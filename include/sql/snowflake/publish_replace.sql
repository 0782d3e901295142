-- Makes the checked rows visible, in one transaction with the manifest and the ledger row. Load mode: replace.
-- No DDL in here: DDL would commit what came before it.
-- Effect: the target holds exactly the staged rows, and keeps its grants and policies. A sync whose export was cleared
-- and made again takes the place of its earlier ledger row: there is one row per run key.

{% set export = ti.xcom_pull(task_ids='wait_for_export') -%}

BEGIN TRANSACTION;

INSERT OVERWRITE INTO {{ dataset.target_table }}
SELECT * FROM {{ staging_table(dag_run) }};

DELETE FROM {{ share.MANIFEST_TABLE }}
WHERE run_key = '{{ run_key(dag_run) }}';

DELETE FROM {{ share.LEDGER_TABLE }}
WHERE run_key = '{{ run_key(dag_run) }}';

INSERT INTO {{ share.MANIFEST_TABLE }} (run_key, dataset, source_table, row_count, exported_at)
SELECT
  run_key,
  dataset,
  source_table,
  row_count,
  exported_at
FROM {{ staging_manifest(dag_run) }};

INSERT INTO {{ share.LEDGER_TABLE }} (
  run_key, dataset, dag_run_id, load_mode, source_table, target_table, rows_exported, rows_loaded, rows_in_target,
  export_path, databricks_run_id, requested_by, started_at, published_at
)
SELECT
  manifest.run_key,
  manifest.dataset,
  {{ dag_run.run_id | sql_string }},
  '{{ dataset.load_mode }}',
  manifest.source_table,
  '{{ dataset.target_table }}',
  manifest.row_count,
  (SELECT COUNT(*) FROM {{ staging_table(dag_run) }}),
  (SELECT COUNT(*) FROM {{ dataset.target_table }}),
  {{ export.export_path | sql_string }},
  {{ export.run_id | int }},
  {{ params.requested_by | sql_string }},
  {{ dag_run.start_date.strftime('%Y-%m-%d %H:%M:%S.%f') | sql_string }}::TIMESTAMP_NTZ AS started_at,
  SYSDATE() AS published_at
FROM {{ staging_manifest(dag_run) }} AS manifest;

COMMIT;
