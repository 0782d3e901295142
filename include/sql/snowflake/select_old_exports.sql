-- Lists the published exports that are older than a number of days, the oldest first.

SELECT
  dataset,
  run_key,
  export_path
FROM {{ share.LEDGER_TABLE }}
WHERE published_at < DATEADD(DAY, -{{ params.keep_days | int }}, SYSDATE())
ORDER BY published_at
LIMIT 1000;
