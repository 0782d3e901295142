-- Reads the ledger's row of one sync of this dataset.
-- Input: ? is the run key. The Snowflake grammar of sqlfluff 4.5 has no such placeholder:
-- sqlfluff:ignore:parsing

SELECT *
FROM {{ share.ledger_table }}
WHERE dataset = '{{ sync.dataset.name }}' AND run_key = ?;
