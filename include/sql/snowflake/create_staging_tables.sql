-- Staging tables of one attempt to copy: the manifest, and the data as the target has it.
-- Effect: makes them, empty; a request that is repeated makes them anew. They are this attempt's own: a COPY of another
-- attempt, which may still run, writes to other tables. A new table has no load history, so a retry loads every file
-- again. The data comes last: before the first sync of a dataset with create_table from_source, there is no target, and
-- the step goes on without this statement.

CREATE OR REPLACE TABLE {{ new_staging_manifest(dag_run, ti) }} LIKE {{ share.MANIFEST_TABLE }};

CREATE OR REPLACE TABLE {{ new_staging_table(dag_run, ti) }} LIKE {{ dataset.target }};
