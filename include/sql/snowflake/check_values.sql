-- Computes the checksums of the staged columns, as the export does for its manifest: one row, in one scan.
-- For each column: the number of values that are not NULL, and the sum of 60 bits of the MD5 of each value's text; for
-- FLOAT, counts, minimum, maximum and sum. Values become the same texts as in
-- include/sql/databricks/export_dataset.sql. A timestamp without a time zone is read as UTC, the session's time zone.
-- Part of check_staging.sql, which puts it in brackets, so it has no final semicolon:
-- sqlfluff:rules:convention.terminator:require_final_semicolon:False

SELECT
{%- for column in sync.loaded.proofs %}
  {%- set it = identifier(column.column) %}
  {%- set finite = "ABS(" ~ it ~ ") < 'inf'::FLOAT" %}
  {%- set text %}
    {%- if column.form == 'number' and column.scale is none -%}
      IFF({{ it }} <> FLOOR({{ it }}), 'not whole', TO_VARCHAR({{ it }}::NUMBER(38, 0)))
    {%- elif column.form == 'number' and column.scale == 0 -%}
      TO_VARCHAR({{ it }})
    {%- elif column.form == 'number' -%}
      RTRIM(RTRIM(TO_VARCHAR({{ it }}::NUMBER(38, {{ column.scale | int }})), '0'), '.')
    {%- elif column.form == 'text' -%}
      COLLATE({{ it }}, '')
    {%- elif column.form == 'boolean' -%}
      DECODE({{ it }}, TRUE, '1', FALSE, '0')
    {%- elif column.form == 'date' -%}
      TO_VARCHAR(DATEDIFF(DAY, '1970-01-01'::DATE, {{ it }}))
    {%- elif column.form == 'timestamp' -%}
      TO_VARCHAR(DATE_PART(EPOCH_MICROSECOND, {{ it }}))
    {%- elif column.form == 'binary' -%}
      HEX_ENCODE({{ it }})
    {%- endif -%}
  {%- endset %}
  COUNT({{ it }}) AS filled_{{ loop.index0 }},
  {%- if column.form == 'fraction' %}
  COUNT(IFF({{ finite }}, 1, NULL)) AS finite_{{ loop.index0 }},
  COUNT(IFF({{ it }} = 'inf'::FLOAT, 1, NULL)) AS infinite_{{ loop.index0 }},
  COUNT(IFF({{ it }} = '-inf'::FLOAT, 1, NULL)) AS negative_infinite_{{ loop.index0 }},
  MIN(IFF({{ finite }}, {{ it }}, NULL)) AS minimum_{{ loop.index0 }},
  MAX(IFF({{ finite }}, {{ it }}, NULL)) AS maximum_{{ loop.index0 }},
  SUM(IFF({{ finite }}, {{ it }}, NULL)) AS total_{{ loop.index0 }}{{ ',' if not loop.last }}
  {%- else %}
  SUM(TO_NUMBER(SUBSTR(MD5({{ text }}), 1, 15), 'XXXXXXXXXXXXXXX')) AS checksum_{{ loop.index0 }}
  {{- ',' if not loop.last }}
  {%- endif %}
{%- endfor %}
FROM {{ sync.staging_table }}
