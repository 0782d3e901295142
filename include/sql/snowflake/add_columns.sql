-- Adds columns to a staging table or a target.
-- Effect: adds those that are not there yet.

{% for name, kind in columns.items() -%}
ALTER TABLE {{ table }} ADD COLUMN IF NOT EXISTS {{ identifier(name) }} {{ kind }};
{% endfor %}
