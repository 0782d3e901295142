-- Writes sample values to a table of their own: a masking policy changes what is read back.
-- Effect: creates the table with two rows; a repeated request replaces it. No other attempt uses it.
-- Input: samples, see Samples in plugins/data_share/snowflake/policies.py.

CREATE OR REPLACE TABLE {{ sync.new_staging_samples }} (
  {% for name, kind in samples.columns.items() -%}
  {{ identifier(name) }} {{ kind }}{{ "," if not loop.last }}
  {% endfor -%}
);

INSERT INTO {{ sync.new_staging_samples }} ({{ samples.names }})
{{ samples.rows }};
