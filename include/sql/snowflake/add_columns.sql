-- Adds columns to a staging table or a target.
-- Effect: adds the columns that do not exist yet.

{% for name, kind in columns.items() -%}
ALTER TABLE {{ table }} ADD COLUMN IF NOT EXISTS {{ identifier(name) }} {{ kind }};
{% endfor %}
