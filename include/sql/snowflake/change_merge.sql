-- Load mode merge: updates target rows whose keys are staged, inserts the other staged rows and, with delete_missing,
-- deletes target rows whose keys are not staged. Part of publish.sql.
-- Without delete_missing, the target keeps its old rows: check_visible.sql needs their number from before the change.

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
  -- NOT EXISTS also deletes rows whose key is NULL; NOT IN would keep them.
  NOT EXISTS (
    SELECT 1
    FROM {{ sync.staging_table }}
    WHERE {{ sync.same_keys(sync.dataset.target_name, sync.staging_table.split('.') | last) }}
  );
{%- endif %}
