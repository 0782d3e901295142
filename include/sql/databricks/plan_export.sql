-- Plans an export: pins the version of the source, and says whether anything is new since the version that was
-- published last. The tasks of the export job that follow, and Airflow, read the row that this returns.
--
-- Inputs (named parameter markers, filled by the export job from its job parameters):
--   :source_table   Unity Catalog name of the table to export, in backticks where needed
--   :published      empty, or JSON with what Airflow knows of the last publish (see plugins/data_share/watermark.py):
--                   version, committed_at and table_id of the source as this file returned them then; or full_because,
--                   the reason why everything is to be exported; and pinned, false for a source without versions.
--   :mode           empty to export, or describe
--
-- Returns one row of texts, without NULL:
--   export_mode     nothing: the source has what was published last, so the export is left out. full: all rows are
--                   exported. describe: an export of all rows is described.
--   export_reason   why, for people
--   to_version      the version of the source to read; empty if the source has none that can be read
--   committed_at    when this version was committed, in microseconds since 1970; empty without a version
--   table_id        what differs when a table is dropped and made again under its name; empty without a version
--
-- Only a Delta table has versions. Of a table with a row filter or a column mask, Databricks shows neither the history
-- nor earlier versions (error condition ROW_LEVEL_SECURITY_COLUMN_MASK_FEATURE_NOT_SUPPORTED); policies that are set
-- through tags are in no view of the information schema: such a dataset file says pinned: false.
--
-- Versions without other rows, e.g. those of OPTIMIZE and VACUUM, are nothing new. An operation that is not in the list
-- below, or that its writer does not name, counts as a change. The history is complete only if it has each version
-- since: Databricks deletes its entries after 30 days. A table that was dropped and made again counts from 0 again: so
-- the time of the published version must be the same too.
--
-- As in export_dataset.sql, EXECUTE IMMEDIATE has a variable for each bound value.

DECLARE OR REPLACE VARIABLE source_table STRING;
DECLARE OR REPLACE VARIABLE published STRING;
DECLARE OR REPLACE VARIABLE names ARRAY<STRING>;
DECLARE OR REPLACE VARIABLE schema_name STRING;
DECLARE OR REPLACE VARIABLE table_name STRING;
DECLARE OR REPLACE VARIABLE tables STRING;
DECLARE OR REPLACE VARIABLE row_filters STRING;
DECLARE OR REPLACE VARIABLE column_masks STRING;
DECLARE OR REPLACE VARIABLE published_version BIGINT;
DECLARE OR REPLACE VARIABLE statement STRING;
DECLARE OR REPLACE VARIABLE table_type STRING;
DECLARE OR REPLACE VARIABLE table_format STRING;
DECLARE OR REPLACE VARIABLE table_id STRING;
DECLARE OR REPLACE VARIABLE policies BIGINT;
DECLARE OR REPLACE VARIABLE no_version_because STRING;
DECLARE OR REPLACE VARIABLE to_version BIGINT;
DECLARE OR REPLACE VARIABLE committed_at STRING;
DECLARE OR REPLACE VARIABLE published_committed_at STRING;
DECLARE OR REPLACE VARIABLE versions_since BIGINT;
DECLARE OR REPLACE VARIABLE changes_since BIGINT;
DECLARE OR REPLACE VARIABLE full_because STRING;

-- \z matches only the end of the text; $ would allow a line feed after it.
SET VAR source_table = CASE
  WHEN
    :source_table RLIKE CONCAT(
      '^([A-Za-z_][A-Za-z0-9_]*|`([^`./ \\x00-\\x1f\\x7f]|``)+`)',
      '([.]([A-Za-z_][A-Za-z0-9_]*|`([^`./ \\x00-\\x1f\\x7f]|``)+`)){2}\\z'
    )
    THEN :source_table
  ELSE RAISE_ERROR(CONCAT(
    'The job parameter source_table must be a table, as catalog.schema.table. A name with other characters than ',
    'ASCII letters, digits and underscores must be in backticks. No name may contain a dot, a blank or a slash.'
  ))
END;

SET VAR published = :published;

SET VAR published_version = CASE
  WHEN
    GET_JSON_OBJECT(published, '$.version') RLIKE '^[0-9]{1,18}\\z'
    AND GET_JSON_OBJECT(published, '$.committed_at') IS NOT NULL
    AND GET_JSON_OBJECT(published, '$.table_id') IS NOT NULL
    THEN CAST(GET_JSON_OBJECT(published, '$.version') AS BIGINT)
  ELSE -1
END;

-- The names as Unity Catalog stores them: in lower case, without the backticks of the statement.
SET VAR names = TRANSFORM(
  SPLIT(source_table, '[.]'), n -> LOWER(REPLACE(REGEXP_REPLACE(n, '^`|`$', ''), '``', '`'))
);

SET VAR schema_name = names[1];
SET VAR table_name = names[2];
SET VAR tables = SPLIT(source_table, '[.]')[0] || '.information_schema.tables';
SET VAR row_filters = SPLIT(source_table, '[.]')[0] || '.information_schema.row_filters';
SET VAR column_masks = SPLIT(source_table, '[.]')[0] || '.information_schema.column_masks';

-- The catalog of the workspace's own metastore has no information schema.
SET VAR statement = CASE
  WHEN names[0] IN ('hive_metastore', 'spark_catalog') OR GET_JSON_OBJECT(published, '$.pinned') = 'false'
    THEN CONCAT(
      'SELECT CAST(NULL AS STRING), CAST(NULL AS STRING), CAST(NULL AS STRING), CAST(0 AS BIGINT) WHERE CONCAT(',
      ':tables, :row_filters, :column_masks, :schema_name, :table_name) IS NOT NULL'
    )
  ELSE CONCAT(
    'SELECT MAX(table_type), MAX(data_source_format), MAX(CAST(UNIX_MICROS(created) AS STRING)),',
    ' (SELECT COUNT(*) FROM IDENTIFIER(:row_filters) WHERE schema_name = :schema_name AND table_name = :table_name)',
    ' + (SELECT COUNT(*) FROM IDENTIFIER(:column_masks)',
    ' WHERE schema_name = :schema_name AND table_name = :table_name)',
    ' FROM IDENTIFIER(:tables) WHERE table_schema = :schema_name AND table_name = :table_name'
  )
END;

EXECUTE IMMEDIATE statement INTO table_type, table_format, table_id, policies
USING tables AS tables, row_filters AS row_filters, column_masks AS column_masks, schema_name AS schema_name,
table_name AS table_name;

SET VAR no_version_because = CASE
  WHEN GET_JSON_OBJECT(published, '$.pinned') = 'false' THEN 'the dataset file says pinned: false'
  WHEN
    table_format IS NULL
    OR table_format <> 'DELTA'
    OR table_type NOT IN ('MANAGED', 'EXTERNAL', 'MANAGED_SHALLOW_CLONE', 'EXTERNAL_SHALLOW_CLONE')
    THEN CONCAT('the source is no Delta table of Unity Catalog', COALESCE(CONCAT(' but ', table_type), ''))
  WHEN policies > 0 THEN 'the source has a row filter or a column mask'
END;

SET VAR statement = CASE
  WHEN no_version_because IS NULL
    THEN CONCAT(
      'SELECT MAX(version), MAX_BY(CAST(UNIX_MICROS(timestamp) AS STRING), version),',
      ' MAX(CASE WHEN version = :published_version THEN CAST(UNIX_MICROS(timestamp) AS STRING) END),',
      ' COUNT(CASE WHEN version > :published_version THEN 1 END),',
      ' COUNT(CASE WHEN version > :published_version AND COALESCE(operation NOT IN ("OPTIMIZE", "VACUUM START",',
      ' "VACUUM END", "COMPUTE STATS", "ANALYZE", "CLUSTER BY", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES",',
      ' "ADD CONSTRAINT", "DROP CONSTRAINT"), TRUE) THEN 1 END)',
      ' FROM (DESCRIBE HISTORY IDENTIFIER(:source_table))'
    )
  ELSE CONCAT(
    'SELECT CAST(NULL AS BIGINT), CAST(NULL AS STRING), CAST(NULL AS STRING), CAST(0 AS BIGINT), CAST(0 AS BIGINT)',
    ' WHERE CONCAT(:source_table, CAST(:published_version AS STRING)) IS NOT NULL'
  )
END;

EXECUTE IMMEDIATE statement INTO to_version, committed_at, published_committed_at, versions_since, changes_since
USING source_table AS source_table, published_version AS published_version;

SET VAR full_because = CASE
  WHEN no_version_because IS NOT NULL THEN no_version_because
  WHEN GET_JSON_OBJECT(published, '$.full_because') IS NOT NULL THEN GET_JSON_OBJECT(published, '$.full_because')
  WHEN published_version < 0 THEN 'no published version is known'
  WHEN
    table_id IS DISTINCT FROM GET_JSON_OBJECT(published, '$.table_id') OR to_version < published_version
    THEN 'the source was dropped and made again'
  WHEN
    published_committed_at IS NULL OR versions_since <> to_version - published_version
    THEN CONCAT('the history of the source does not reach back to version ', CAST(published_version AS STRING))
  WHEN
    published_committed_at IS DISTINCT FROM GET_JSON_OBJECT(published, '$.committed_at')
    THEN 'the source was dropped and made again'
  WHEN changes_since > 0 THEN CONCAT('the source has changed since version ', CAST(published_version AS STRING))
END;

SELECT
  CASE WHEN :mode = 'describe' THEN 'describe' WHEN full_because IS NULL THEN 'nothing' ELSE 'full' END AS export_mode,
  COALESCE(full_because, CONCAT('nothing new since version ', CAST(published_version AS STRING))) AS export_reason,
  COALESCE(CAST(to_version AS STRING), '') AS to_version,
  COALESCE(committed_at, '') AS committed_at,
  COALESCE(CASE WHEN to_version IS NOT NULL THEN table_id END, '') AS table_id;
