-- Target tables of the datasets with create_table: from_columns.
-- Effect: creates what is missing, changes nothing that exists.

{% for dataset in datasets if dataset.create_table == 'from_columns' -%}
CREATE TABLE IF NOT EXISTS {{ dataset.target }} (
  {% for definition in dataset.column_definitions -%}
  {{ definition }}{{ "," if not loop.last }}
  {% endfor -%}
);

{% endfor %}
