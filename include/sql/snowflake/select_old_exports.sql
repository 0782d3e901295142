-- Lists the published exports that are older than a number of days, the youngest first: the files of the oldest are
-- those that a lifecycle rule has deleted, while their rows in the ledger stay.

SELECT
  dataset,
  run_key,
  export_path
FROM {{ share.ledger_table }}
WHERE published_at < DATEADD(DAY, -{{ params.keep_days | int }}, SYSDATE())
ORDER BY published_at DESC
LIMIT 1000;
