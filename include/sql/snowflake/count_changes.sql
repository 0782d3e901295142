-- Counts what publishing the staged rows changes in the target, before it is done. Part of publish.sql; a dry run asks
-- for it alone. Without a semicolon, as publish.sql puts it in brackets:
-- sqlfluff:rules:convention.terminator:require_final_semicolon:False

{% if params.dry_run and copied(ti).created_columns | default({}) -%}
-- The first sync would create the target: all rows are new.
SELECT
  staged.total AS rows_inserted,
  0 AS rows_updated,
  0 AS rows_deleted
FROM (SELECT COUNT(*) AS total FROM {{ staging_table(ti) }}) AS staged
{%- else -%}
SELECT
  staged.total{{ ' - matched.total' if load_mode(params) == 'merge' }} AS rows_inserted,
  {% if load_mode(params) == 'merge' -%}
  known.total AS rows_updated,
  {{ 'present.total - known.total' if dataset.delete_missing else '0' }} AS rows_deleted
  {%- else -%}
  0 AS rows_updated,
  {{ 'present.total' if load_mode(params) == 'replace' else '0' }} AS rows_deleted
  {%- endif %}
FROM (SELECT COUNT(*) AS total FROM {{ staging_table(ti) }}) AS staged
CROSS JOIN (SELECT COUNT(*) AS total FROM {{ dataset.target }}) AS present
{%- if load_mode(params) == 'merge' %}
CROSS JOIN (
  SELECT COUNT(*) AS total
  FROM {{ dataset.target }} AS target
  INNER JOIN {{ staging_table(ti) }} AS staging
    ON {{ same_keys('target', 'staging') }}
) AS known
CROSS JOIN (
  -- Fewer than known, when people have put a key into the target twice.
  SELECT COUNT(*) AS total
  FROM (
    SELECT DISTINCT {{ keys('staging') }}
    FROM {{ dataset.target }} AS target
    INNER JOIN {{ staging_table(ti) }} AS staging
      ON {{ same_keys('target', 'staging') }}
  ) AS known_keys
) AS matched
{%- endif %}
{%- endif %}
