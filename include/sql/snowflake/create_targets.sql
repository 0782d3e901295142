-- Target tables of the datasets with create_table: from_columns.
-- Effect: creates what is missing, changes nothing that exists.

{% for dataset in datasets if dataset.create_table -%}
CREATE TABLE IF NOT EXISTS {{ dataset.target }} (
  {% for column, type in dataset.columns.items() -%}
  {{ column | quoted }} {{ type }}{{ "," if not loop.last }}
  {% endfor -%}
);

{% endfor %}
