-- Table that one attempt to copy loads its manifest into.
-- Effect: makes it, empty; a request that is repeated makes it anew. It is this attempt's own: a COPY of another one,
-- which may still run, writes to another table.

CREATE OR REPLACE TABLE {{ sync.new_staging_manifest }} LIKE {{ share.manifest_table }};
