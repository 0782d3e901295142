"""Emulator for Snowflake: DuckDB behind the connector's protocol and the SQL API v2."""
