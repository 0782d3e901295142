-- Gives Snowflake access to the share: Snowflake assumes the AWS role that include/aws/snowflake_role_policy.json
-- describes, so no AWS key is stored or passed on.
-- Before: set aws_account_id in include/share.yaml. The role need not exist yet: docs/aws.md.
-- Effect: creates the integration if it is missing, changes nothing that exists.

-- By default, only this role may create integrations.
USE ROLE accountadmin;

-- Never OR REPLACE: a new integration has another external id, which the AWS role does not trust, and existing stages
-- lose their integration.
-- Only one allowed location: users of this integration can read nothing else in your AWS account.
CREATE STORAGE INTEGRATION IF NOT EXISTS {{ share.storage_integration }}
TYPE = EXTERNAL_STAGE
STORAGE_PROVIDER = 'S3'
ENABLED = TRUE
STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::{{ share.aws_account_id }}:role/{{ share.snowflake_aws_role }}'
STORAGE_ALLOWED_LOCATIONS = ('{{ share.url }}')
COMMENT = 'Reads the exports of Databricks';

-- Shows STORAGE_AWS_IAM_USER_ARN and STORAGE_AWS_EXTERNAL_ID, which include/aws/snowflake_role_trust.json needs.
DESCRIBE INTEGRATION {{ share.storage_integration }};
