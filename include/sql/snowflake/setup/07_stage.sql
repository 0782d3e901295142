-- The stage on the share, as the DAG set_up_snowflake would create it; and the proof that Snowflake can read the
-- bucket.
-- Before: the AWS role exists and trusts Snowflake: docs/aws.md.
-- Effect: creates the stage when it is missing, changes nothing that exists.

-- Whoever creates it owns it: the loader, as if the DAG had done it. This also shows that the grants are enough.
USE ROLE data_share_loader;

CREATE STAGE IF NOT EXISTS data_share.public.s3_share_stage
  URL = 's3://databricks-snowflake-share/dataset/'
  STORAGE_INTEGRATION = s3_share_int
  FILE_FORMAT = (TYPE = PARQUET);

-- An empty answer is right before the first export. An error names what AWS refuses.
LIST @data_share.public.s3_share_stage;
