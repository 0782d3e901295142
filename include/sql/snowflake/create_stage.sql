-- External stage on the bucket to which Databricks exports; COPY INTO reads the exports through it.
-- Effect: creates the stage if it is missing, changes nothing that exists.
-- Needs: the storage integration, which an account administrator creates once, and USAGE on the integration. The role
-- keeps USAGE: each COPY INTO and LIST of the stage requires it.

CREATE STAGE IF NOT EXISTS {{ share.stage }}
  URL = '{{ share.url }}'
  STORAGE_INTEGRATION = {{ share.storage_integration }}
  FILE_FORMAT = (TYPE = PARQUET);
