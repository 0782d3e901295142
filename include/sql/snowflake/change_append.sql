-- Load mode append: adds the staged rows to the target. Part of publish.sql, which allows each run key only once.

INSERT INTO {{ sync.dataset.target }} ({{ sync.columns() }})
SELECT {{ sync.columns() }} FROM {{ sync.staging_table }};
