-- Load mode merge: updates the target rows whose keys are staged with other values, inserts the other staged rows, and
-- deletes those that are staged as deleted. With delete_missing, and all rows staged, it deletes target rows whose keys
-- are not staged; and before, those with a key that people have inserted twice: one of them is inserted again. Part of
-- publish.sql.

{% set assignments = sync.assignments('staging') -%}
{% set different = sync.differs('target', 'staging') -%}
{% set deleted = 'staging.' ~ identifier(sync.deleted) -%}
{% if sync.dataset.delete_missing and not sync.is_increment -%}
DELETE FROM {{ sync.dataset.target }}
WHERE
  EXISTS (
    SELECT 1
    FROM (
      SELECT {{ sync.keys() }}
      FROM {{ sync.dataset.target }}
      GROUP BY {{ sync.keys() }}
      HAVING COUNT(*) > 1
    ) AS repeated
    WHERE {{ sync.same_keys(sync.dataset.target_name, 'repeated') }}
  );

{% endif -%}
MERGE INTO {{ sync.dataset.target }} AS target
USING {{ sync.staging_table }} AS staging
  ON {{ sync.same_keys('target', 'staging') }}
{%- if sync.has_deletes %}
WHEN MATCHED AND {{ deleted }} THEN DELETE
{%- endif %}
{%- if assignments %}
WHEN MATCHED{{ ' AND (' ~ different ~ ')' if different }} THEN UPDATE SET {{ assignments }}
{%- endif %}
WHEN NOT MATCHED{{ ' AND NOT ' ~ deleted if sync.has_deletes }} THEN
  INSERT ({{ sync.columns() }}) VALUES ({{ sync.columns('staging') }});

{% if sync.dataset.delete_missing and not sync.is_increment -%}
DELETE FROM {{ sync.dataset.target }}
WHERE
  -- NOT EXISTS also deletes rows whose key is NULL; NOT IN would keep them.
  NOT EXISTS (
    SELECT 1
    FROM {{ sync.staging_table }}
    WHERE {{ sync.same_keys(sync.dataset.target_name, sync.staging_table.split('.') | last) }}
  );
{%- endif %}
