-- Load mode replace: the target holds exactly the staged rows, and keeps its grants and policies. Part of publish.sql.

INSERT OVERWRITE INTO {{ dataset.target }} ({{ columns(ti) }})
SELECT {{ columns(ti) }} FROM {{ staging_table(ti) }};
