-- The target of a dataset with create_table: from_source, before its first publish.
-- Effect: creates it when it is missing, changes nothing that exists. It is DDL, hence before the transaction; what has
-- no rows yet does no harm when the publish then fails.

CREATE TABLE IF NOT EXISTS {{ sync.dataset.target }} (
  {% for name, kind in columns.items() -%}
  {{ identifier(name) }} {{ kind }}{{ "," if not loop.last }}
  {% endfor -%}
);
