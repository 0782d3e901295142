-- Load mode merge: rows with a known key are updated, the others inserted and, if the dataset says so, target rows
-- without a staged one deleted. Part of publish.sql.

{% if not dataset.delete_missing -%}
{% include 'count_before.sql' %}

{% endif -%}
MERGE INTO {{ dataset.target }} AS target
USING {{ staging_table(ti) }} AS staging
  ON {{ same_keys('target', 'staging') }}
{%- if assignments(ti, 'staging') %}
WHEN MATCHED THEN UPDATE SET {{ assignments(ti, 'staging') }}
{%- endif %}
WHEN NOT MATCHED THEN INSERT ({{ columns(ti) }}) VALUES ({{ columns(ti, 'staging') }});

{% if dataset.delete_missing -%}
DELETE FROM {{ dataset.target }}
WHERE
  -- A row without a key equals no staged one, and is deleted too. With NOT IN, it would not be.
  NOT EXISTS (
    SELECT 1
    FROM {{ staging_table(ti) }}
    WHERE {{ same_keys(dataset.target_name, staging_table(ti).split('.') | last) }}
  );
{%- endif %}
