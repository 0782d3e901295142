-- Load mode replace: the target holds exactly the staged rows, and stays the same table: its grants and policies stay
-- too. Part of publish.sql.

INSERT OVERWRITE INTO {{ sync.dataset.target }} ({{ sync.columns() }})
SELECT {{ sync.columns() }} FROM {{ sync.staging_table }};
