-- Counts the staged rows for which a condition is not true, and returns some of them, for the report of a failed check.

SELECT COUNT(*) AS total
FROM {{ sync.staged_rows }}
WHERE NOT COALESCE(({{ condition }}), FALSE);

SELECT *
FROM {{ sync.staged_rows }}
WHERE NOT COALESCE(({{ condition }}), FALSE)
LIMIT {{ limit }};
