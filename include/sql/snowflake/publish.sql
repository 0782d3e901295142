-- Makes the checked rows visible: the target, the manifest and the ledger row change in one transaction.
-- No DDL in here: DDL would commit what came before it.
--
-- The first statement takes the dataset's turn, which holds a lock until the end: publishes of one dataset follow each
-- other, and none follows one that was staged later. The ledger row comes next. Its run key is NULL, which the ledger
-- refuses, when this sync does not have the turn, when another process of it has published this export (in load mode
-- append: any sync has), or when the staging tables are not as the copy left them. The last is looked at again at the
-- end, as a copy that was thought dead may empty them in between. A refusal ends the request, and Snowflake rolls the
-- transaction back.

{% set run = run_key(dag_run) -%}
{% set path = export(ti).export_path -%}

BEGIN TRANSACTION;

MERGE INTO {{ share.TURN_TABLE }} AS turn
USING (
  SELECT
    '{{ dataset.name }}' AS dataset,
    staged_at
  FROM {{ staging_manifest(dag_run) }}
) AS mine
  ON turn.dataset = mine.dataset
WHEN MATCHED AND turn.staged_at <= mine.staged_at THEN
  UPDATE SET turn.run_key = '{{ run }}', turn.staged_at = mine.staged_at
WHEN NOT MATCHED THEN
  INSERT (dataset, run_key, staged_at) VALUES (mine.dataset, '{{ run }}', mine.staged_at);

{% if load_mode(params) != 'append' -%}
DELETE FROM {{ share.LEDGER_TABLE }}
WHERE run_key = '{{ run }}' AND export_path <> {{ path | sql_string }};

{% endif -%}
INSERT INTO {{ share.LEDGER_TABLE }} (
  run_key, dataset, dag_run_id, attempt, load_mode, source_table, target_table, rows_exported, rows_loaded,
  rows_inserted, rows_updated, rows_deleted, rows_in_target, export_path, databricks_run_id, query_ids, requested_by,
  started_at, published_at
)
SELECT
  CASE
    WHEN
      turn.run_key = '{{ run }}'
      AND (SELECT COUNT(*) FROM {{ staging_table(dag_run) }}) = {{ copied(ti).rows_loaded }}
      AND (
        SELECT COUNT(*)
        FROM {{ share.LEDGER_TABLE }} AS earlier
        WHERE
          earlier.run_key = '{{ run }}'
          OR (
            '{{ load_mode(params) }}' = 'append'
            AND earlier.dataset = '{{ dataset.name }}'
            AND earlier.export_path = {{ path | sql_string }}
          )
      ) = 0
      THEN '{{ run }}'
  END AS run_key,
  '{{ dataset.name }}' AS dataset,
  {{ dag_run.run_id | sql_string }} AS dag_run_id,
  {{ export_attempt(ti) }} AS attempt,
  '{{ load_mode(params) }}' AS load_mode,
  manifest.source_table,
  '{{ dataset.target_table }}' AS target_table,
  manifest.row_count AS rows_exported,
  {{ copied(ti).rows_loaded }} AS rows_loaded,
  changes.rows_inserted,
  changes.rows_updated,
  changes.rows_deleted,
  0 AS rows_in_target,
  {{ path | sql_string }} AS export_path,
  {{ export(ti).run_id | int }} AS databricks_run_id,
  {{ copied(ti).query_ids | tojson | sql_string }} AS query_ids,
  {{ (params.requested_by or dag_run.triggering_user_name) | sql_string }} AS requested_by,
  {{ dag_run.start_date.strftime('%Y-%m-%d %H:%M:%S.%f') | sql_string }}::TIMESTAMP_NTZ AS started_at,
  SYSDATE() AS published_at
FROM (
  -- One row in any case: without a manifest, its NULLs are refused.
  SELECT
    MAX(source_table) AS source_table,
    MAX(row_count) AS row_count
  FROM {{ staging_manifest(dag_run) }}
) AS manifest
CROSS JOIN (
  {% include 'count_changes.sql' %}
) AS changes
LEFT OUTER JOIN {{ share.TURN_TABLE }} AS turn
  ON turn.dataset = '{{ dataset.name }}';

{% include 'change_' ~ load_mode(params) ~ '.sql' %}

UPDATE {{ share.LEDGER_TABLE }}
SET
  rows_in_target = CASE
    WHEN (SELECT COUNT(*) FROM {{ staging_table(dag_run) }}) = rows_loaded
      THEN (SELECT COUNT(*) FROM {{ dataset.target_table }})
  END
WHERE run_key = '{{ run }}';

DELETE FROM {{ share.MANIFEST_TABLE }}
WHERE run_key IN (SELECT manifest.run_key FROM {{ staging_manifest(dag_run) }} AS manifest);

INSERT INTO {{ share.MANIFEST_TABLE }}
SELECT * FROM {{ staging_manifest(dag_run) }};

COMMIT;
