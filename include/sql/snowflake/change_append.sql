-- Load mode append: the staged rows are added to the target. Part of publish.sql, which lets a run key through once.

{% include 'count_before.sql' %}

INSERT INTO {{ dataset.target }} ({{ columns(ti) }})
SELECT {{ columns(ti) }} FROM {{ staging_table(ti) }};
