-- Load mode replace: the target holds exactly the staged rows, and stays the same table: its grants and policies stay
-- too. Part of publish.sql.

INSERT OVERWRITE INTO {{ dataset.target }} ({{ columns(ti) }})
SELECT {{ columns(ti) }} FROM {{ staging_table(ti) }};
