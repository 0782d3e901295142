"""Emulators of S3, Databricks and Snowflake, which speak the protocols of the real services on this machine."""
