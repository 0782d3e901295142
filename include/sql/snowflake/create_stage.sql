-- Stage on the share, from which COPY INTO reads what Databricks has written.
-- Effect: creates the stage if it is missing, changes nothing that exists.
-- Needs: the storage integration, which an account administrator creates once, and USAGE on it, permanently: each COPY
-- INTO and LIST of the stage requires it too.

CREATE STAGE IF NOT EXISTS {{ share.stage }}
  URL = '{{ share.url }}'
  STORAGE_INTEGRATION = {{ share.storage_integration }}
  FILE_FORMAT = (TYPE = PARQUET);
