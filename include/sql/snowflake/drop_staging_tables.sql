-- Drops the staging tables of one run.

DROP TABLE IF EXISTS {{ staging_table(dag_run) }};

DROP TABLE IF EXISTS {{ staging_manifest(dag_run) }};
