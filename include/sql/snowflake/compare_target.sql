-- Compares the target with the staged rows, for a verification. Returns one row of counts; all are 0 if the two are
-- equal. Changes nothing.
-- Input: compared, the columns, and same_rows, the condition on their merge keys, empty without keys; see
-- plugins/data_share/snowflake/verification.py.
-- rows_different: rows of the source whose merge keys the target has with other values. rows_missing: other rows that
-- the target lacks. rows_added: other rows that the source lacks. Without merge keys, a row with another value is one
-- that is missing, and one that is added.
-- different_<n>: with merge keys, how many of the different rows differ in this column; without, how many of the rows
-- have a value of it that is not equally often on both sides: if a value was changed, only its column has such rows.

WITH differing AS (
  {% include 'differing_rows.sql' %}
)

SELECT
{%- if same_rows %}
  {%- for column in compared if not column.is_key %}
  COUNT(CASE WHEN source.surplus > target.surplus AND {{ column.differs }} THEN 1 END) AS different_{{ column.number }},
  {%- endfor %}
  COUNT(CASE WHEN source.surplus > target.surplus THEN 1 END) AS rows_different,
  COALESCE(SUM(CASE WHEN target.surplus IS NULL THEN source.surplus END), 0) AS rows_missing,
  COALESCE(SUM(CASE WHEN source.surplus IS NULL THEN -target.surplus END), 0) AS rows_added
FROM (
  SELECT * FROM differing
  WHERE surplus > 0
) AS source
FULL OUTER JOIN (
  SELECT * FROM differing
  WHERE surplus < 0
) AS target
  ON {{ same_rows }};
{%- else %}
  {%- for column in compared %}
  COUNT(CASE WHEN surplus_{{ column.number }} <> 0 THEN 1 END) AS different_{{ column.number }},
  {%- endfor %}
  0 AS rows_different,
  COALESCE(SUM(CASE WHEN surplus > 0 THEN surplus END), 0) AS rows_missing,
  COALESCE(SUM(CASE WHEN surplus < 0 THEN -surplus END), 0) AS rows_added
FROM (
  SELECT
    {%- for column in compared %}
    SUM(surplus) OVER (PARTITION BY {{ column.value }}) AS surplus_{{ column.number }},
    {%- endfor %}
    surplus
  FROM differing
) AS summed;
{%- endif %}
