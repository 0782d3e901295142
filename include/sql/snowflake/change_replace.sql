-- Load mode replace: the target gets exactly the staged rows. It stays the same table, and keeps its grants and
-- policies. Part of publish.sql.

INSERT OVERWRITE INTO {{ sync.dataset.target }} ({{ sync.columns() }})
SELECT {{ sync.columns() }} FROM {{ sync.staging_table }};
