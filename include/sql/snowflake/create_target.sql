-- A target table: one with a file in targets/, or that of a dataset with create_table: from_columns.
-- Effect: creates it when it is missing, changes nothing that exists.

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
