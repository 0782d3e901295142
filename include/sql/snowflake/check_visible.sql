-- Refuses the publish if the loader does not see all that the change has left in the target. Part of publish.sql.
--
-- A row access policy that hides rows from the loader, or a masking policy on merge keys, makes MERGE insert anew what
-- it does not see. So each staged key of a merge must be found in the target, once or more often (people put keys into
-- it twice), and in each load mode no row may be missing. More rows are no fault: others may insert at the same time.
--
-- The counts are noted first, and refused by a statement that reads nothing but them: in one that reads a table with
-- policies, Snowflake may redact the words of the error. The words are a text that is no number. Without a count, the
-- staging tables are not as they were: that is the ledger's to refuse.

UPDATE {{ sync.lock_table }}
SET
  rows_after = CASE
    WHEN
      staged_at = (SELECT MAX(manifest.staged_at) FROM {{ sync.staging_manifest }} AS manifest)
      AND (SELECT COUNT(*) FROM {{ sync.staging_table }}) = {{ sync.loaded.rows_loaded }}
      THEN (SELECT COUNT(*) FROM {{ sync.dataset.target }})
  END,
  keys_missing = (
    SELECT COUNT(*)
    FROM {{ sync.staging_table }}
    WHERE
      {{ '' if sync.load_mode.has_keys else 'FALSE AND ' -}}
      NOT EXISTS (
        SELECT 1
        FROM {{ sync.dataset.target }}
        WHERE {{ sync.same_keys(sync.dataset.target_name, sync.staging_table.split('.') | last) or 'FALSE' }}
      )
  )
WHERE {{ sync.is_target }};

{% set kept = 'rows_before + ' -%}
{% if not sync.load_mode.keeps_rows -%}
{% set kept = '' -%}
{% elif sync.dataset.delete_missing -%}
{% set kept = 'rows_updated + ' -%}
{% endif -%}
{% set needed = kept ~ 'rows_inserted' -%}

UPDATE {{ sync.lock_table }}
SET
  rows_after = rows_after + TO_NUMBER(
    CASE
      WHEN rows_after IS NULL THEN '0'
      WHEN keys_missing = 0 AND rows_after >= {{ needed }} THEN '0'
      ELSE {{ sync.rows_hidden | sql_string }} || keys_missing || ', ' || rows_after || ' of ' || ({{ needed }})
    END
  )
WHERE {{ sync.is_target }};
