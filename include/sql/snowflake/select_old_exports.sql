-- Lists the published exports that are older than a number of days, newest first: a lifecycle rule may have deleted the
-- files of the oldest ones, whose rows stay in the ledger.

SELECT
  dataset,
  run_key,
  export_path
FROM {{ share.ledger_table }}
WHERE published_at < DATEADD(DAY, -{{ params.keep_days | int }}, SYSDATE())
ORDER BY published_at DESC
LIMIT 1000;
