-- Notes how many rows of the target the loader sees before the change. Part of publish.sql, for check_visible.sql.

UPDATE {{ lock_table }}
SET rows_before = (SELECT COUNT(*) FROM {{ dataset.target }})
WHERE {{ is_target }};
