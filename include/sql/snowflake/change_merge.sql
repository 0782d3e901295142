-- Load mode merge: rows with a known key are updated, the others inserted and, if the dataset says so, target rows
-- without a staged one deleted. Part of publish.sql.

{% if not sync.dataset.delete_missing -%}
{% include 'count_before.sql' %}

{% endif -%}
MERGE INTO {{ sync.dataset.target }} AS target
USING {{ sync.staging_table }} AS staging
  ON {{ sync.same_keys('target', 'staging') }}
{%- if sync.assignments('staging') %}
WHEN MATCHED THEN UPDATE SET {{ sync.assignments('staging') }}
{%- endif %}
WHEN NOT MATCHED THEN INSERT ({{ sync.columns() }}) VALUES ({{ sync.columns('staging') }});

{% if sync.dataset.delete_missing -%}
DELETE FROM {{ sync.dataset.target }}
WHERE
  -- A row without a key equals no staged one, and is deleted too. With NOT IN, it would not be.
  NOT EXISTS (
    SELECT 1
    FROM {{ sync.staging_table }}
    WHERE {{ sync.same_keys(sync.dataset.target_name, sync.staging_table.split('.') | last) }}
  );
{%- endif %}
