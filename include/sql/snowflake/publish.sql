-- Publishes the checked rows: changes the target, the manifest table and the ledger in one transaction. After it, drops
-- the staging tables, and returns the ledger row.
-- No DDL before COMMIT: DDL would commit everything before it.
--
-- The target's row in its lock table decides whether this sync may publish. The first statement reads, compares and
-- writes the row, all in one, and locks the table until the end: publishes to one target run one after the other. A
-- publish that waited for the lock sees the row as the previous publish left it. For other tables, such as the ledger,
-- Snowflake does not promise that a session sees what another session has committed meanwhile (Transactions, Read
-- consistency across sessions). Snowflake locks whole tables, so the tables that all datasets share are written last,
-- after the long work on the target: then other syncs wait only for moments.
--
-- To refuse a publish, a statement sets the run key to NULL: the column is NOT NULL, so the statement fails, and
-- Snowflake rolls the transaction back. The first statement refuses if another dataset owns the target, if a sync that
-- was staged later is published already, or if this export of this run is (load mode append: if this run or this
-- export is). It refuses an increment if the target has not the version of the source that it starts from, and an
-- append of all rows, by a dataset that otherwise adds increments, to a target that has some. The second statement,
-- before the target changes, refuses an export that the ledger has already, a staging table whose row count is not that
-- of the copy, and an increment without deletions if the target has fewer rows than the last publish has left. The
-- INSERT into the ledger compares the staging table again, as somebody may have changed it in between.
--
-- The tables of an earlier version lack columns. Then one of the first two statements fails, as they name these
-- columns, before the target changes. The step adds the columns of the lock table and runs this file again; and once
-- more without the columns if the ledger or the table of manifests lacks them, as only set_up_snowflake may add those.

{% set run = sync.key -%}
{% set path = sync.loaded.export_path -%}
{% set or_and = 'AND' if sync.load_mode.is_repeatable else 'OR' -%}
{% set counts_on_rows = sync.is_increment and not sync.has_deletes -%}
{# Columns that tables of an earlier version lack: of the lock row, of the manifest, and of the ledger, with values. -#}
{% set locked_choice = columns_of_version | list if sync.tables_are_current else [] -%}
{% set choice = ['source_choice', 'source_condition', 'bytes_exported'] + locked_choice
  if sync.tables_are_current else [] -%}
{% set later = {
  'package_version': sync.package_version | sql_string,
  'statement_seconds': sync.statement_seconds
} if sync.tables_are_current else {} -%}
{% for column in choice %}{% set _ = later.update({column: 'manifest.' ~ column}) %}{% endfor -%}
{% set manifest_columns = [
  'run_key', 'dataset', 'source_table', 'row_count', 'file_count', 'column_types', 'exported_at', 'staged_at'
] + choice -%}

BEGIN TRANSACTION;

MERGE INTO {{ sync.lock_table }} AS locked
USING (
  -- MAX returns a row even without a manifest; its NULL is then refused.
  SELECT
    {{ sync.target_key.target_database }} AS target_database,
    {{ sync.target_key.target_schema }} AS target_schema,
    {{ sync.target_key.target_name }} AS target_name,
    {% for column in locked_choice -%}
    MAX({{ column }}) AS {{ column }},
    {% endfor -%}
    MAX(staged_at) AS staged_at
  FROM (
    SELECT
      {{ manifest_columns | join(',\n      ') }}
    FROM {{ sync.staging_manifest }}
  ) AS manifest
) AS mine
  ON
    locked.target_database = mine.target_database
    AND locked.target_schema = mine.target_schema
    AND locked.target_name = mine.target_name
WHEN MATCHED THEN
  UPDATE SET
    locked.run_key = CASE
      WHEN
        locked.dataset IN ('{{ sync.owner }}', '')
        AND locked.staged_at <= mine.staged_at
        AND NOT (locked.run_key = '{{ run }}' {{ or_and }} locked.export_path = {{ path | sql_string }})
        AND {{ sync.follows_condition }}
        THEN '{{ run }}'
    END,
    locked.dataset = '{{ sync.owner }}',
    locked.export_path = {{ path | sql_string }},
    locked.attempt = {{ sync.export_attempt }},
    {% for column in locked_choice -%}
    locked.{{ column }} = mine.{{ column }},
    {% endfor -%}
    locked.staged_at = mine.staged_at;

UPDATE {{ sync.lock_table }}
SET
  run_key = CASE
    WHEN
      (SELECT COUNT(*) FROM {{ sync.staging_table }}) = {{ sync.loaded.rows_loaded }}
      AND (
        SELECT COUNT(*)
        FROM (
          SELECT
            {{ (['dataset', 'run_key', 'export_path'] + later | list) | join(',\n            ') }}
          FROM {{ share.ledger_table }}
        ) AS earlier
        WHERE
          earlier.dataset = '{{ sync.dataset.name }}'
          AND (earlier.run_key = '{{ run }}' {{ or_and }} earlier.export_path = {{ path | sql_string }})
      ) = 0
      AND {{ 'changes.rows_before >= COALESCE(rows_after, 0)' if counts_on_rows else 'TRUE' }}
      THEN run_key
  END,
  rows_before = changes.rows_before,
  rows_inserted = changes.rows_inserted,
  rows_updated = changes.rows_updated,
  rows_deleted = changes.rows_deleted
FROM (
  {% include 'count_changes.sql' %}
) AS changes
WHERE {{ sync.lock_condition }};

{% include sync.load_mode.sql_file %}

{% include 'check_visible.sql' %}

{% if sync.load_mode.is_repeatable -%}
-- When a run exports again, its new row replaces the first.
DELETE FROM {{ share.ledger_table }}
WHERE run_key = '{{ run }}';

{% endif -%}
INSERT INTO {{ share.ledger_table }} (
  run_key, dataset, dag_run_id, attempt, load_mode, source_table, target_table, rows_exported, rows_loaded,
  rows_inserted, rows_updated, rows_deleted, rows_in_target, export_path, databricks_run_id, query_ids, requested_by,
  started_at, published_at
  {%- for column in later %},
  {{ column }}{% endfor %}
)
SELECT
  CASE
    WHEN
      locked.staged_at = manifest.staged_at
      AND (SELECT COUNT(*) FROM {{ sync.staging_table }}) = {{ sync.loaded.rows_loaded }}
      THEN locked.run_key
  END AS run_key,
  '{{ sync.dataset.name }}' AS dataset,
  {{ sync.run_id | sql_string }} AS dag_run_id,
  {{ sync.export_attempt }} AS attempt,
  '{{ sync.load_mode }}' AS load_mode,
  manifest.source_table,
  {{ sync.dataset.target_table | sql_string }} AS target_table,
  manifest.row_count AS rows_exported,
  {{ sync.loaded.rows_loaded }} AS rows_loaded,
  locked.rows_inserted,
  locked.rows_updated,
  locked.rows_deleted,
  locked.rows_after AS rows_in_target,
  {{ path | sql_string }} AS export_path,
  {{ sync.loaded.databricks_run_id | int }} AS databricks_run_id,
  {{ sync.loaded.query_ids | tojson | sql_string }} AS query_ids,
  {{ sync.requested_by | sql_string }} AS requested_by,
  {{ sync.started_at | sql_string }}::TIMESTAMP_NTZ AS started_at,
  SYSDATE() AS published_at{% for column, value in later.items() %},
  {{ value }} AS {{ column }}{% endfor %}
FROM (
  -- MAX returns a row even without a manifest; its NULLs are then refused.
  SELECT
    MAX(source_table) AS source_table,
    MAX(row_count) AS row_count,
    {% for column in choice -%}
    MAX({{ column }}) AS {{ column }},
    {% endfor -%}
    MAX(staged_at) AS staged_at
  FROM {{ sync.staging_manifest }}
) AS manifest
CROSS JOIN (
  -- The same for the lock row: if somebody has deleted it, its NULLs are refused.
  SELECT
    MAX(run_key) AS run_key,
    MAX(staged_at) AS staged_at,
    MAX(rows_inserted) AS rows_inserted,
    MAX(rows_updated) AS rows_updated,
    MAX(rows_deleted) AS rows_deleted,
    MAX(rows_after) AS rows_after
  FROM {{ sync.lock_table }}
  WHERE {{ sync.lock_condition }}
) AS locked;

DELETE FROM {{ share.manifest_table }}
WHERE run_key IN (SELECT manifest.run_key FROM {{ sync.staging_manifest }} AS manifest);

INSERT INTO {{ share.manifest_table }} (
  {{ manifest_columns | join(',\n  ') }}
)
SELECT
  {{ manifest_columns | join(',\n  ') }}
FROM {{ sync.staging_manifest }};

COMMIT;

DROP TABLE IF EXISTS {{ sync.staging_table }};

DROP TABLE IF EXISTS {{ sync.staging_manifest }};

DROP TABLE IF EXISTS {{ sync.staging_samples }};

SELECT *
FROM {{ share.ledger_table }}
WHERE dataset = '{{ sync.dataset.name }}' AND run_key = '{{ run }}';
