-- A target that has a file in targets/, or belongs to a dataset with create_table: from_columns.
-- Effect: creates it if it is missing, changes nothing that exists.

{% if task.target in datasets -%}
{% set dataset = datasets[task.target] -%}
CREATE TABLE IF NOT EXISTS {{ dataset.target }} (
  {% for definition in dataset.column_definitions -%}
  {{ definition }}{{ "," if not loop.last }}
  {% endfor -%}
);
{%- else -%}
{% include task.target %}
{%- endif %}
