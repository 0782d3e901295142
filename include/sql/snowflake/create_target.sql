-- Target table of a dataset with create_table: from_columns.
-- Effect: creates it when it is missing, changes nothing that exists.

CREATE TABLE IF NOT EXISTS {{ dataset.target }} (
  {% for definition in dataset.column_definitions -%}
  {{ definition }}{{ "," if not loop.last }}
  {% endfor -%}
);
