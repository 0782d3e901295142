-- Counts the rows that publishing will insert, update and delete in the target, and those that it has now. A row that
-- is staged as it is in the target is not updated. Part of publish.sql; a dry run runs only this statement. It has no
-- final semicolon, as publish.sql puts it in brackets:
-- sqlfluff:rules:convention.terminator:require_final_semicolon:False

{% set different = sync.differs('target', 'staging') or 'TRUE' -%}
{% set is_there = 'NOT staging.' ~ identifier(sync.deleted) if sync.has_deletes else 'TRUE' -%}

{% if sync.is_dry_run and sync.loaded.created_columns -%}
-- The first sync would create the target: all rows are new.
SELECT
  staged.total AS rows_inserted,
  0 AS rows_updated,
  0 AS rows_deleted,
  0 AS rows_before
FROM (SELECT COUNT(*) AS total FROM {{ sync.staging_table }}) AS staged
{%- else -%}
SELECT
  staged.total{{ ' - matched.total' if sync.load_mode.has_keys }} AS rows_inserted,
  {% if not sync.load_mode.has_keys -%}
  0 AS rows_updated,
  {{ '0' if sync.load_mode.keeps_rows else 'present.total' }} AS rows_deleted,
  {% else -%}
  {% if sync.is_increment -%}
  known.different AS rows_updated,
  known.gone AS rows_deleted,
  {% elif sync.dataset.delete_missing -%}
  -- Of a key that people have inserted twice, one row is left.
  LEAST(known.different, matched.total) AS rows_updated,
  present.total - matched.total AS rows_deleted,
  {% else -%}
  known.different AS rows_updated,
  0 AS rows_deleted,
  {% endif -%}
  {% endif -%}
  present.total AS rows_before
FROM (SELECT COUNT(*) AS total FROM {{ sync.staged_rows }}) AS staged
CROSS JOIN (SELECT COUNT(*) AS total FROM {{ sync.dataset.target }}) AS present
{%- if sync.load_mode.has_keys %}
CROSS JOIN (
  SELECT
    COUNT(*) AS total,
    COUNT(CASE WHEN {{ is_there }} AND ({{ different }}) THEN 1 END) AS different,
    COUNT(CASE WHEN NOT ({{ is_there }}) THEN 1 END) AS gone
  FROM {{ sync.dataset.target }} AS target
  INNER JOIN {{ sync.staging_table }} AS staging
    ON {{ sync.same_keys('target', 'staging') }}
) AS known
CROSS JOIN (
  -- Counts each key once; known counts a key twice that people have inserted into the target twice.
  SELECT COUNT(*) AS total
  FROM (
    SELECT DISTINCT {{ sync.keys('staging') }}
    FROM {{ sync.dataset.target }} AS target
    INNER JOIN {{ sync.staging_table }} AS staging
      ON {{ sync.same_keys('target', 'staging') }}
    WHERE {{ is_there }}
  ) AS known_keys
) AS matched
{%- endif %}
{%- endif %}
