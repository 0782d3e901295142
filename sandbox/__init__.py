"""The embedded default: stand-ins of S3, Databricks and Snowflake, and a whole stack on this machine."""
