-- Finds the rows that the staging table and the target have not equally often, by all compared values. Part of
-- compare_target.sql and show_differing_rows.sql, which put it in brackets, so it has no final semicolon:
-- sqlfluff:rules:convention.terminator:require_final_semicolon:False
--
-- surplus is positive for rows of the source that the target lacks, and negative for rows that only the target has.
-- GROUP BY takes two NULLs as equal, and two NaN. EXCEPT does too, but Snowflake has no EXCEPT ALL, so it would not see
-- how often a row is there. Texts are compared as they are stored: a collation may ignore case. If the load mode keeps
-- rows that the source lacks, only those target rows are compared whose merge keys the source has.

{% set values = compared | map(attribute='value') | join(', ') -%}
{% set stored = compared | map(attribute='stored') | join(', ') -%}
SELECT
  {{ values }},
  SUM(side) AS surplus
FROM (
  SELECT
    {{ stored }},
    1 AS side
  FROM {{ sync.staging_table }}
  UNION ALL
  SELECT
    {{ stored }},
    -1 AS side
  FROM {{ sync.dataset.target }}
  {%- if not sync.dataset.mirrors_source %}
  WHERE
    EXISTS (
      SELECT 1
      FROM {{ sync.staging_table }}
      WHERE {{ sync.same_keys(sync.dataset.target_name, sync.staging_table.split('.') | last) }}
    )
  {%- endif %}
) AS sides
GROUP BY {{ values }}
HAVING SUM(side) <> 0
