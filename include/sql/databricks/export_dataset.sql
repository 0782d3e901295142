-- Exports one source table to the share as Parquet, then writes the manifest of what it wrote.
--
-- Inputs (named parameter markers, filled by the export job from its job parameters):
--   :source_table   Unity Catalog name of the table to export
--   :data_path      directory for the data files, ends in '/'
--   :manifest_path  directory for the manifest, ends in '/'
--   :run_key        names this sync
--   :dataset        name of the dataset
--
-- The manifest is counted from the files and not from the table: it says what can be loaded, also when the table
-- changes between the two statements. file_count counts the files that hold rows. The manifest is written last, so that
-- an export without one is an export that did not finish.
--
-- column_types is the schema of the files as JSON: the names, and the type of their struct. Alone, the struct would not
-- do: Spark writes names as they are, also those that hold a comma or a colon. No row is read for it, and there need be
-- none: both functions ask for types only, and a join that finds nothing has the columns all the same.

INSERT OVERWRITE DIRECTORY :data_path
USING PARQUET
SELECT * FROM IDENTIFIER(:source_table);

INSERT OVERWRITE DIRECTORY :manifest_path
USING PARQUET
SELECT
  :run_key AS run_key,
  :dataset AS dataset,
  :source_table AS source_table,
  COUNT(*) AS row_count,
  COUNT(DISTINCT _metadata.file_path) AS file_count,
  (
    SELECT
      TO_JSON(NAMED_STRUCT(
        'names', JSON_OBJECT_KEYS(TO_JSON(STRUCT(files.*), MAP('ignoreNullFields', 'false'))),
        'types', TYPEOF(STRUCT(files.*))
      ))
    FROM (SELECT 1) AS nothing
    LEFT OUTER JOIN IDENTIFIER('parquet.`' || :data_path || '`') AS files
      ON FALSE
  ) AS column_types,
  CURRENT_TIMESTAMP() AS exported_at
FROM IDENTIFIER('parquet.`' || :data_path || '`');
