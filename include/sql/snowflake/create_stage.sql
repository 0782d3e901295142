-- Stage on the share: where Databricks writes and COPY INTO reads.
-- Effect: creates it when it is missing, changes nothing that exists.
-- Needs: the storage integration, which an account administrator creates once, and USAGE on it, for good: each COPY
-- INTO and LIST of the stage asks for it too.

CREATE STAGE IF NOT EXISTS {{ share.STAGE }}
  URL = '{{ share.SHARE_URL }}'
  STORAGE_INTEGRATION = {{ share.STORAGE_INTEGRATION }}
  FILE_FORMAT = (TYPE = PARQUET);
