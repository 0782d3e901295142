-- Adds the columns that the lock table of an earlier version lacks. Only its owner may, the role of the syncs.
-- Effect: adds what is missing, changes nothing that exists.

ALTER TABLE {{ sync.lock_table }} ADD COLUMN IF NOT EXISTS source_table_id VARCHAR;

ALTER TABLE {{ sync.lock_table }} ADD COLUMN IF NOT EXISTS source_version NUMBER(38, 0);

ALTER TABLE {{ sync.lock_table }} ADD COLUMN IF NOT EXISTS source_committed_at TIMESTAMP_NTZ;

ALTER TABLE {{ sync.lock_table }} ADD COLUMN IF NOT EXISTS from_version NUMBER(38, 0);

ALTER TABLE {{ sync.lock_table }} ADD COLUMN IF NOT EXISTS export_mode VARCHAR;

ALTER TABLE {{ sync.lock_table }} ADD COLUMN IF NOT EXISTS source_rows NUMBER(38, 0);
