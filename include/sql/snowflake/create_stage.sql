-- Stage on the share: where Databricks writes and COPY INTO reads.
-- Effect: creates it when it is missing, changes nothing that exists.
-- Needs: the storage integration, which an account administrator creates once, and USAGE on it, for good: each COPY
-- INTO and LIST of the stage asks for it too.

CREATE STAGE IF NOT EXISTS {{ share.stage }}
  URL = '{{ share.url }}'
  STORAGE_INTEGRATION = {{ share.storage_integration }}
  FILE_FORMAT = (TYPE = PARQUET);
