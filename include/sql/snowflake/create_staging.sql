-- Staging table of one attempt to copy, with columns that the step has read from the target or from the manifest.
-- Effect: creates the table, empty; a repeated request replaces it. No other attempt uses it.
-- Not CREATE TABLE ... LIKE: that would copy the target's clustering key, and cluster rows that live for minutes;
-- Snowflake does not document whether it copies policies.

CREATE OR REPLACE TABLE {{ sync.new_staging_table }} (
  {% for name, kind in columns.items() -%}
  {{ identifier(name) }} {{ kind }}{{ "," if not loop.last }}
  {% endfor -%}
);
