-- The stage on the share, as the DAG set_up_snowflake would create it, and a test that Snowflake can read the bucket.
-- Before: create the AWS role, which trusts Snowflake: docs/aws.md.
-- Effect: creates the stage if it is missing, changes nothing that exists.

-- The loader creates the stage and so owns it, as with the DAG. This also shows that its grants suffice.
USE ROLE {{ share.loader_role }};

CREATE STAGE IF NOT EXISTS {{ share.database }}.{{ share.target_schema }}.{{ share.stage }}
  URL = '{{ share.url }}'
  STORAGE_INTEGRATION = {{ share.storage_integration }}
  FILE_FORMAT = (TYPE = PARQUET);

-- Before the first export, the answer is empty. An error says what AWS refuses.
LIST @{{ share.database }}.{{ share.target_schema }}.{{ share.stage }};
