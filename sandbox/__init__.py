"""A whole stack on this machine: Airflow, and the emulators of S3, Databricks and Snowflake."""
