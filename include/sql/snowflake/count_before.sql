-- Stores the number of target rows that the loader sees before the change. Part of publish.sql, for check_visible.sql.

UPDATE {{ sync.lock_table }}
SET rows_before = (SELECT COUNT(*) FROM {{ sync.dataset.target }})
WHERE {{ sync.lock_condition }};
