-- Returns some of the rows that differ, for the report of a verification.
-- Input: compared and same_rows, as for compare_target.sql; found, what that file has found; limit, the number of rows.
-- named_<n> are the values that tell which row it is; found_in says whether the row is in the source, in the target, or
-- with other values in both. Then source_<n> and target_<n> are the values, and different_<n> whether they differ.

WITH differing AS (
  {% include 'differing_rows.sql' %}
)

SELECT
{%- if same_rows %}
  {%- for column in found.named %}
  COALESCE(source.{{ column.value }}, target.{{ column.value }}) AS named_{{ column.number }},
  {%- endfor %}
  {%- for column in found.columns %}
  source.{{ column.value }} AS source_{{ column.number }},
  target.{{ column.value }} AS target_{{ column.number }},
  {{ column.differs }} AS different_{{ column.number }},
  {%- endfor %}
  CASE
    WHEN target.surplus IS NULL THEN 'source'
    WHEN source.surplus IS NULL THEN 'target'
    ELSE 'both'
  END AS found_in
FROM (
  SELECT * FROM differing
  WHERE surplus > 0
) AS source
FULL OUTER JOIN (
  SELECT * FROM differing
  WHERE surplus < 0
) AS target
  ON {{ same_rows }}
ORDER BY {{ range(1, found.named | length + 1) | join(', ') }}, found_in
LIMIT {{ limit }};
{%- else %}
  {%- for column in found.named %}
  {{ column.value }} AS named_{{ column.number }},
  {%- endfor %}
  CASE WHEN surplus > 0 THEN 'source' ELSE 'target' END AS found_in
FROM differing
ORDER BY {{ range(1, found.named | length + 1) | join(', ') }}, found_in
LIMIT {{ limit }};
{%- endif %}
