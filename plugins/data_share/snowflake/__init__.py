"""The Snowflake side of a sync: load, check, publish, clean up."""
