-- Load mode append: adds the staged rows to the target. Part of publish.sql, which allows each run key only once.

{% include 'count_before.sql' %}

INSERT INTO {{ sync.dataset.target }} ({{ sync.columns() }})
SELECT {{ sync.columns() }} FROM {{ sync.staging_table }};
