-- Checks the staged rows. Returns a row for each check: its name, its condition, the remedy, and 1 for passed or 0 for
-- failed; and beside each row the same checksums of the staged values, see check_values.sql.
-- A condition must hold for each row or, with aggregates, for the whole table. NULL is not true: it fails the check.
-- Of an increment, it must hold for the rows that are there, and with aggregates for the target as it will be.
--
-- The lists below are the checks of every sync; no check of a dataset may have one of their names.
-- reconciliation: the manifest, the answer of COPY INTO and the staging table must agree, so the loaded rows are the
-- exported rows. All four comparisons are made here, so that one failed step names all differences. COUNT(*) makes a
-- condition apply to the whole table, also to an empty one.
-- row_change: limits the change of the row count since the last sync, if the dataset has a limit. That sync may have
-- exported only changes; its source_rows are those of the source. Without a last sync, or if it had no rows, any number
-- passes: there is no percentage of zero rows.
-- A verification makes only the first: what was published has passed the others.

{% set loaded = sync.loaded -%}
{% set limit = sync.dataset.max_row_change_percent -%}
{% set rows_then = 'COALESCE(source_rows, rows_exported)' if sync.tables_are_current else 'rows_exported' -%}
{% set rows_now = 'MAX(rows_of_source)' if sync.is_increment else 'COUNT(*)' -%}
{% set last =
  '(SELECT NULLIF(MAX_BY(' ~ rows_then ~ ', published_at), 0) FROM ' ~ share.ledger_table ~
  " WHERE dataset = '" ~ sync.dataset.name ~ "')" -%}
{% set change = 'COALESCE(ABS(' ~ rows_now ~ ' - ' ~ last ~ ') * 100 <= ' ~ limit ~ ' * ' ~ last ~ ', TRUE)' -%}
{% set files_changed = 'Files of the export were lost, added or changed on the share: find out who else writes to ' ~
  'the bucket, and start a new sync, without reload_run_key.' -%}
{% set accept = 'If the source is right, start the sync again with accept_row_change: true.' -%}

{% set reconciliation = [
  ('rows_match_manifest', 'COUNT(*) = ' ~ loaded.rows_exported, files_changed),
  ('rows_parsed_match_manifest', 'COUNT(*) >= 0 AND ' ~ loaded.rows_parsed ~ ' = ' ~ loaded.rows_exported, files_changed),
  ('rows_loaded_match_manifest', 'COUNT(*) >= 0 AND ' ~ loaded.rows_loaded ~ ' = ' ~ loaded.rows_exported, files_changed),
  ('files_match_manifest', 'COUNT(*) >= 0 AND ' ~ loaded.files ~ ' = ' ~ loaded.files_exported, files_changed),
] -%}
{% set row_change = [
  ('row_change_acceptable', 'COUNT(*) >= 0' if sync.params.accept_row_change else change, accept),
] if limit is not none and not sync.is_verification else [] -%}
{% set own = [] if sync.is_verification else sync.dataset.checks_with_advice -%}

SELECT
  checks.*{{ ',' if loaded.proofs }}
  {{ 'sums.*' if loaded.proofs }}
FROM (
  {% for name, condition, what_to_do in reconciliation + row_change + own -%}
  {% set rows = sync.staging_table -%}
  {% if loop.index0 >= (reconciliation + row_change) | length -%}
  {% set rows = sync.checked_rows(name, condition) -%}
  {% elif sync.is_increment and loop.index0 >= reconciliation | length -%}
  {% set rows = '(SELECT ' ~ loaded.source_rows | int ~ ' AS rows_of_source)' -%}
  {% endif -%}
  SELECT
    {{ name | sql_string }} AS check_name,
    {{ condition | sql_string }} AS condition,
    {{ what_to_do | sql_string }} AS what_to_do,
    COALESCE(MIN(check_result), 1) AS check_result
  FROM (SELECT CASE WHEN {{ condition }} THEN 1 ELSE 0 END AS check_result FROM {{ rows }})
  {%- if not loop.last %}
  UNION ALL
  {% endif %}
  {%- endfor %}
) AS checks
{%- if loaded.proofs %}
CROSS JOIN (
  {% include 'check_values.sql' %}
) AS sums
{%- endif %};
