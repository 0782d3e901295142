-- Table that one attempt to copy loads the data into, with columns that the step has read from the target or from the
-- manifest.
-- Effect: makes it, empty; a request that is repeated makes it again. It is this attempt's own.
-- It is not made LIKE the target: that would copy the target's clustering key, and cluster what lives for minutes; and
-- nobody says whether it copies policies.

CREATE OR REPLACE TABLE {{ sync.new_staging_table }} (
  {% for name, kind in columns.items() -%}
  {{ identifier(name) }} {{ kind }}{{ "," if not loop.last }}
  {% endfor -%}
);
