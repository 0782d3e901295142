-- Makes the checked rows visible: the target, the manifest and the ledger row change in one transaction.
-- No DDL in here: DDL would commit what came before it.
--
-- The first statement takes the dataset's turn: it locks a table of the dataset's own until the end, so publishes of
-- one dataset follow each other, and none follows one that was staged later. Snowflake locks whole tables, so the
-- tables that all datasets share come last, when the long work on the target is done: others wait for moments only.
--
-- A run key that is NULL is refused, which ends the request, and Snowflake rolls the transaction back. Before the
-- target is touched, it is NULL when this sync does not have the turn, when another process of it has published this
-- export (in load mode append: any sync has), or when the staging table is not as the copy left it. The last is looked
-- at again in the end: a copy that was thought dead may have made the staging tables anew in between, and stages at
-- another time.

{% set run = run_key(dag_run) -%}
{% set path = export(ti).export_path -%}

BEGIN TRANSACTION;

MERGE INTO {{ turn_table }} AS turn
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

UPDATE {{ turn_table }}
SET
  run_key = CASE
    WHEN
      run_key = '{{ run }}'
      AND (SELECT COUNT(*) FROM {{ staging_table(dag_run) }}) = {{ copied(ti).rows_loaded }}
      AND (
        SELECT COUNT(*)
        FROM {{ share.LEDGER_TABLE }} AS earlier
        WHERE
          earlier.dataset = '{{ dataset.name }}'
          AND (
            earlier.run_key = '{{ run }}'
            {{ 'OR' if load_mode(params) == 'append' else 'AND' }} earlier.export_path = {{ path | sql_string }}
          )
      ) = 0
      THEN run_key
  END,
  rows_inserted = changes.rows_inserted,
  rows_updated = changes.rows_updated,
  rows_deleted = changes.rows_deleted
FROM (
  {% include 'count_changes.sql' %}
) AS changes;

{% include 'change_' ~ load_mode(params) ~ '.sql' %}

{% include 'check_visible.sql' %}

{% if load_mode(params) != 'append' -%}
-- An export that was made again takes the place of the first.
DELETE FROM {{ share.LEDGER_TABLE }}
WHERE run_key = '{{ run }}';

{% endif -%}
INSERT INTO {{ share.LEDGER_TABLE }} (
  run_key, dataset, dag_run_id, attempt, load_mode, source_table, target_table, rows_exported, rows_loaded,
  rows_inserted, rows_updated, rows_deleted, rows_in_target, export_path, databricks_run_id, query_ids, requested_by,
  started_at, published_at
)
SELECT
  CASE
    WHEN
      turn.staged_at = manifest.staged_at
      AND (SELECT COUNT(*) FROM {{ staging_table(dag_run) }}) = {{ copied(ti).rows_loaded }}
      THEN turn.run_key
  END AS run_key,
  '{{ dataset.name }}' AS dataset,
  {{ dag_run.run_id | sql_string }} AS dag_run_id,
  {{ export_attempt(ti) }} AS attempt,
  '{{ load_mode(params) }}' AS load_mode,
  manifest.source_table,
  {{ dataset.target_table | sql_string }} AS target_table,
  manifest.row_count AS rows_exported,
  {{ copied(ti).rows_loaded }} AS rows_loaded,
  turn.rows_inserted,
  turn.rows_updated,
  turn.rows_deleted,
  turn.rows_after AS rows_in_target,
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
    MAX(row_count) AS row_count,
    MAX(staged_at) AS staged_at
  FROM {{ staging_manifest(dag_run) }}
) AS manifest
LEFT OUTER JOIN {{ turn_table }} AS turn
  ON turn.dataset = '{{ dataset.name }}';

DELETE FROM {{ share.MANIFEST_TABLE }}
WHERE run_key IN (SELECT manifest.run_key FROM {{ staging_manifest(dag_run) }} AS manifest);

INSERT INTO {{ share.MANIFEST_TABLE }}
SELECT * FROM {{ staging_manifest(dag_run) }};

COMMIT;
