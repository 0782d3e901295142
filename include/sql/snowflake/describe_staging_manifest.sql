-- Reads the columns of this attempt's manifest table, with their types.

DESCRIBE TABLE {{ sync.new_staging_manifest }};
