-- Checks the staged rows: one row per check with 1 for passed and 0 for failed.
-- A condition holds for each row or, with aggregates, for the whole table. NULL is not true: it fails the check.

{% for name, check in task.checks.items() -%}
SELECT
  {{ name | sql_string }} AS check_name,
  COALESCE(MIN(check_result), 1) AS check_result
FROM (SELECT CASE WHEN {{ check.check_statement }} THEN 1 ELSE 0 END AS check_result FROM {{ task.table }})
{%- if not loop.last %}
UNION ALL
{% endif %}
{%- endfor %};
