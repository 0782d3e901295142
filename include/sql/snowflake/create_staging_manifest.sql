-- Manifest table of one attempt to copy.
-- Effect: creates the table, empty; a repeated request replaces it. No other attempt uses it: a COPY of another attempt
-- that still runs writes to another table.

CREATE OR REPLACE TABLE {{ sync.new_staging_manifest }} LIKE {{ share.manifest_table }};
