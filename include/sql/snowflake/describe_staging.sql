-- Reads the columns of this attempt's staging table, which are the target's.

DESCRIBE TABLE {{ new_staging_table(dag_run, ti) }};
