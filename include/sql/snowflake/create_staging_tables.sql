-- Staging tables of one run: the data as the target has it, and the manifest.
-- Effect: makes them anew and empty. A new table has no load history, so a retry of the copy loads every file again.

CREATE OR REPLACE TABLE {{ staging_table(dag_run) }} LIKE {{ dataset.target_table }};

CREATE OR REPLACE TABLE {{ staging_manifest(dag_run) }} LIKE {{ share.MANIFEST_TABLE }};
