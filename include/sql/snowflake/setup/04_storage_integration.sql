-- The way in which Snowflake reads the share: it takes the AWS role that include/aws/snowflake_role_policy.json
-- describes, so that no key of AWS is stored or passed on.
-- Before: put your AWS account for <AWS_ACCOUNT_ID>. The role need not exist yet: docs/aws.md.
-- Effect: creates it when it is missing, changes nothing that exists.

-- Only this role may create integrations unless the right was granted to others.
USE ROLE accountadmin;

-- Never OR REPLACE: a new integration has another external id, which the AWS role does not trust, and stages that were
-- made with the old one have lost theirs.
-- The one allowed location: whoever may use this integration can read nothing else of your AWS account with it.
CREATE STORAGE INTEGRATION IF NOT EXISTS s3_share_int
TYPE = EXTERNAL_STAGE
STORAGE_PROVIDER = 'S3'
ENABLED = TRUE
STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::<AWS_ACCOUNT_ID>:role/data-share-snowflake'
STORAGE_ALLOWED_LOCATIONS = ('s3://databricks-snowflake-share/dataset/')
COMMENT = 'Reads the exports of Databricks';

-- Shows STORAGE_AWS_IAM_USER_ARN and STORAGE_AWS_EXTERNAL_ID, which include/aws/snowflake_role_trust.json asks for.
DESCRIBE INTEGRATION s3_share_int;
