-- The target of a dataset with create_table: from_source, before its first publish.
-- Effect: creates it if it is missing, changes nothing that exists. It runs before the transaction, because DDL would
-- commit it; if the publish then fails, an empty table does no harm.

CREATE TABLE IF NOT EXISTS {{ sync.dataset.target }} (
  {% for name, kind in columns.items() -%}
  {{ identifier(name) }} {{ kind }}{{ "," if not loop.last }}
  {% endfor -%}
);
