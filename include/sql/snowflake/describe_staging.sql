-- Reads the columns of the run's staging table, which are the target's.

DESCRIBE TABLE {{ staging_table(dag_run) }};
