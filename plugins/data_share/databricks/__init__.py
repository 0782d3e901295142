"""The Databricks side of a sync: the export, and the trigger that follows it."""
