"""Databricks to Snowflake data share: what the DAGs of this project are made of."""

__version__ = "0.1.0"
"""The version of wheel, page, doctor and ledger; ``make release`` changes it."""
