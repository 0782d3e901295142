"""Emulator of a Databricks workspace: the Jobs API, and the execution of a job's SQL file on the sandbox's lake."""
