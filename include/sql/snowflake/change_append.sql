-- Load mode append: the staged rows are added to the target. Part of publish.sql, which lets a run key through once.

{% include 'count_before.sql' %}

INSERT INTO {{ sync.dataset.target }} ({{ sync.columns() }})
SELECT {{ sync.columns() }} FROM {{ sync.staging_table }};
