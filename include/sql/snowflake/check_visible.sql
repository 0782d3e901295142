-- Refuses the publish if the loader does not see all rows that the target must have after the change. Part of
-- publish.sql.
--
-- If a row access policy hides rows from the loader, or a masking policy changes merge keys, MERGE inserts rows again
-- that it does not see. So each staged key of a merge must be found in the target, at least once (people may have
-- inserted a key twice), and none that is staged as deleted; and in each load mode no row may be missing. More rows
-- than expected are accepted: others may insert at the same time. But after an increment that deletes rows too, the
-- target must have as many rows as the source has in this version: else it was not as this increment needs it.
--
-- The first statement stores the counts, the second one compares only these: in a statement that reads a table with
-- policies, Snowflake may redact the message of an error. The message is a text that TO_NUMBER cannot convert, so the
-- error shows it. rows_after is NULL if the staging tables have changed; the INSERT into the ledger refuses that.
--
-- Snowflake supports a correlated EXISTS only as a condition of its own in WHERE, or as one of several joined by AND.
-- So the keys that must be there, and those that must not, are counted one after the other.

{% set same_keys = sync.same_keys(sync.dataset.target_name, sync.staging_table.split('.') | last) -%}

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
      {{ 'NOT ' ~ identifier(sync.deleted) ~ ' AND ' if sync.has_deletes -}}
      NOT EXISTS (
        SELECT 1
        FROM {{ sync.dataset.target }}
        WHERE {{ same_keys or 'FALSE' }}
      )
  )
  {%- if sync.has_deletes %} + (
    SELECT COUNT(*)
    FROM {{ sync.staging_table }}
    WHERE
      {{ identifier(sync.deleted) }}
      AND EXISTS (
        SELECT 1
        FROM {{ sync.dataset.target }}
        WHERE {{ same_keys }}
      )
  ){% endif %}
WHERE {{ sync.lock_condition }};

{% set needed = 'rows_inserted' -%}
{% if sync.has_deletes -%}
{% set needed = sync.loaded.source_rows | int | string -%}
{% elif sync.load_mode.keeps_rows -%}
{% set needed = 'rows_before - rows_deleted + rows_inserted' -%}
{% endif -%}

UPDATE {{ sync.lock_table }}
SET
  rows_after = rows_after + TO_NUMBER(
    CASE
      WHEN rows_after IS NULL THEN '0'
      WHEN keys_missing = 0 AND rows_after {{ '=' if sync.has_deletes else '>=' }} {{ needed }} THEN '0'
      ELSE {{ sync.rows_hidden | sql_string }} || keys_missing || ', ' || rows_after || ' of ' || ({{ needed }})
    END
  )
WHERE {{ sync.lock_condition }};
