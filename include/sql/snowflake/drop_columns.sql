-- Drops columns of a staging table.

{% for name in columns -%}
ALTER TABLE {{ table }} DROP COLUMN {{ identifier(name) }};
{% endfor %}
