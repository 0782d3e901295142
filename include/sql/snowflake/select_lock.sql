-- Reads the target's row in the lock table of its name, which targets of that name in other schemas share: the dataset
-- that owns the target, and its last publish.

SELECT *
FROM {{ sync.lock_table }}
WHERE {{ sync.lock_condition }};
