-- Reads what the ledger says of one sync.
-- Input: ? is the run key.

SELECT *
FROM {{ share.LEDGER_TABLE }}
WHERE run_key = ?;
