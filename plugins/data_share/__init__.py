"""Databricks to Snowflake data share: what the DAGs of this project are made of."""
