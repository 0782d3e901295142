-- Plans an export: pins the version of the source, and says what is to be exported since the version that was published
-- last. The tasks of the export job that follow, and Airflow, read the row that this returns.
--
-- Inputs (named parameter markers, filled by the export job from its job parameters):
--   :source_table   Unity Catalog name of the table to export, in backticks where needed
--   :published      empty, or JSON with what Airflow knows of the last publish (see plugins/data_share/watermark.py):
--                   version, committed_at, table_id and has_feed of the source as this file returned them then; or
--                   full_because, the reason why everything is to be exported; pinned, false for a source without
--                   versions; increment.load, merge or append, if only changes are to be exported where that is
--                   possible; or no_increment_because, the reason why not this time. With verify, true, all rows are
--                   exported as they were in version, or the error says why they cannot be.
--   :mode           empty to export, or describe
--
-- Returns one row of texts, without NULL:
--   export_mode     nothing: the source has what was published last, so the export is left out. feed: the changes are
--                   read from the change data feed. compare: they are found by comparing the two versions. full: all
--                   rows are exported. describe: an export of all rows is described. verify: all rows of the version
--                   that was published last are exported, to compare the target with them.
--   export_reason   why, for people
--   to_version      the version of the source to read; empty if the source has none that can be read. For verify, it
--                   is the newest one as long as no row has changed: VACUUM keeps its files.
--   from_version    the version that was published last; empty unless changes are exported
--   committed_at    when to_version was committed, in microseconds since 1970; empty without a version
--   table_id        what differs when a table is dropped and made again under its name; empty without a version
--   has_feed        true if the change data feed is known to be on in to_version; else empty
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
-- Whether the change data feed is on, only the history tells: an entry that sets the property, or one whose commit has
-- written change files. It stays on until an entry sets it otherwise, or may. What the history once told is remembered
-- with the published version, as the entry may be gone by now.
--
-- Changes are exported only if the columns are the same, if VACUUM cannot have removed files that have them, and if
-- they are at most a third of the rows: beyond that, all rows are cheaper. Databricks reads no version that is older
-- than delta.deletedFileRetentionDuration, a week by default. An append has only rows to add: of any other change, and
-- where the changes cannot be told, it is refused, as an export of all rows would add them again.
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
DECLARE OR REPLACE VARIABLE without_changes STRING;
DECLARE OR REPLACE VARIABLE of_rows STRING;
DECLARE OR REPLACE VARIABLE of_columns STRING;
DECLARE OR REPLACE VARIABLE of_names STRING;
DECLARE OR REPLACE VARIABLE column_changes_since BIGINT;
DECLARE OR REPLACE VARIABLE name_changes_since BIGINT;
DECLARE OR REPLACE VARIABLE vacuums_since BIGINT;
DECLARE OR REPLACE VARIABLE feed_set_at BIGINT;
DECLARE OR REPLACE VARIABLE feed_reset_at BIGINT;
DECLARE OR REPLACE VARIABLE full_because STRING;
DECLARE OR REPLACE VARIABLE load_mode STRING;
DECLARE OR REPLACE VARIABLE since STRING;
DECLARE OR REPLACE VARIABLE had_feed BOOLEAN;
DECLARE OR REPLACE VARIABLE has_feed BOOLEAN;
DECLARE OR REPLACE VARIABLE may_read_feed BOOLEAN;
DECLARE OR REPLACE VARIABLE may_read_published BOOLEAN;
DECLARE OR REPLACE VARIABLE is_recent BOOLEAN;
DECLARE OR REPLACE VARIABLE columns_then STRING;
DECLARE OR REPLACE VARIABLE columns_now STRING;
DECLARE OR REPLACE VARIABLE rows_then BIGINT;
DECLARE OR REPLACE VARIABLE rows_now BIGINT;
DECLARE OR REPLACE VARIABLE no_changes_because STRING;
DECLARE OR REPLACE VARIABLE rows_in_feed BIGINT;
DECLARE OR REPLACE VARIABLE others_in_feed BIGINT;
DECLARE OR REPLACE VARIABLE is_comparable BOOLEAN;
DECLARE OR REPLACE VARIABLE may_compare BOOLEAN;
DECLARE OR REPLACE VARIABLE rows_changed BIGINT;
DECLARE OR REPLACE VARIABLE rows_gone BIGINT;
DECLARE OR REPLACE VARIABLE verifies BOOLEAN;
DECLARE OR REPLACE VARIABLE no_verification_because STRING;
DECLARE OR REPLACE VARIABLE decision STRING;
DECLARE OR REPLACE VARIABLE reason STRING;

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

-- Operations that change no row; those that change rows, but neither columns nor properties; and those of columns.
SET VAR without_changes = CONCAT(
  '"OPTIMIZE", "VACUUM START", "VACUUM END", "COMPUTE STATS", "ANALYZE", "CLUSTER BY", "SET TBLPROPERTIES", ',
  '"UNSET TBLPROPERTIES", "ADD CONSTRAINT", "DROP CONSTRAINT"'
);

SET VAR of_rows = '"WRITE", "STREAMING UPDATE", "COPY INTO", "DELETE", "TRUNCATE", "UPDATE", "MERGE"';

SET VAR of_columns = CONCAT(
  '"ADD COLUMNS", "CHANGE COLUMN", "CHANGE COLUMNS", "RENAME COLUMN", "DROP COLUMNS", "REPLACE COLUMNS"'
);

-- Those after which a column of the same name and type may have other values, although no row has changed.
SET VAR of_names = '"RENAME COLUMN", "DROP COLUMNS", "REPLACE COLUMNS"';

-- VACUUM removes the files that were superseded longer ago than the time that it keeps.
SET VAR statement = CASE
  WHEN no_version_because IS NULL
    THEN CONCAT(
      'SELECT MAX(version), MAX_BY(CAST(UNIX_MICROS(timestamp) AS STRING), version),',
      ' MAX(CASE WHEN version = :published_version THEN CAST(UNIX_MICROS(timestamp) AS STRING) END),',
      ' COUNT(CASE WHEN version > :published_version THEN 1 END),',
      ' COUNT(CASE WHEN version > :published_version AND COALESCE(operation NOT IN (', without_changes, '), TRUE)',
      ' THEN 1 END), COUNT(CASE WHEN version > :published_version AND COALESCE(operation NOT IN (', without_changes,
      ', ', of_rows, '), TRUE) THEN 1 END), COUNT(CASE WHEN version > :published_version AND operation IN (', of_names,
      ') THEN 1 END),',
      ' COUNT(CASE WHEN version > :published_version AND operation = "VACUUM START" AND COALESCE(superseded_at <=',
      ' UNIX_MICROS(timestamp) - 1000 * CAST(COALESCE(TRY_ELEMENT_AT(operationParameters, "specifiedRetentionMillis"),',
      ' TRY_ELEMENT_AT(operationParameters, "defaultRetentionMillis")) AS BIGINT), TRUE) THEN 1 END),',
      ' MIN(CASE WHEN sets_feed AND version > feed_reset_at THEN version END), MAX(feed_reset_at)',
      ' FROM (SELECT *, MIN(CASE WHEN version > :published_version THEN UNIX_MICROS(timestamp) END) OVER ()',
      ' AS superseded_at, COALESCE(MAX(CASE WHEN NOT sets_feed AND (names_feed OR COALESCE(operation NOT IN (',
      without_changes, ', ', of_rows, ', ', of_columns, '), TRUE)) THEN version END) OVER (), -1) AS feed_reset_at',
      ' FROM (SELECT *, parameters LIKE "%delta.enablechangedatafeed%" AS names_feed,',
      ' parameters RLIKE "delta[.]enablechangedatafeed[^a-z]*true"',
      ' OR COALESCE(CAST(TRY_ELEMENT_AT(operationMetrics, "numAddedChangeFiles") AS BIGINT), 0) > 0',
      ' OR COALESCE(CAST(TRY_ELEMENT_AT(operationMetrics, "numTargetChangeFilesAdded") AS BIGINT), 0) > 0 AS sets_feed',
      ' FROM (SELECT *, COALESCE(LOWER(TO_JSON(operationParameters)), "") AS parameters',
      ' FROM (DESCRIBE HISTORY IDENTIFIER(:source_table)))))'
    )
  ELSE CONCAT(
    'SELECT CAST(NULL AS BIGINT), CAST(NULL AS STRING), CAST(NULL AS STRING), CAST(0 AS BIGINT), CAST(0 AS BIGINT),',
    ' CAST(0 AS BIGINT), CAST(0 AS BIGINT), CAST(0 AS BIGINT), CAST(NULL AS BIGINT), CAST(NULL AS BIGINT)',
    ' WHERE CONCAT(:source_table, CAST(:published_version AS STRING)) IS NOT NULL'
  )
END;

EXECUTE IMMEDIATE statement INTO to_version, committed_at, published_committed_at, versions_since, changes_since,
column_changes_since, name_changes_since, vacuums_since, feed_set_at, feed_reset_at
USING source_table AS source_table, published_version AS published_version;

SET VAR since = CONCAT(' since version ', CAST(published_version AS STRING));

-- Why no version can be compared with the published one.
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
END;

SET VAR verifies = COALESCE(GET_JSON_OBJECT(published, '$.verify') = 'true', FALSE);

-- An hour less than a week, as the export reads the version later.
SET VAR is_recent = (UNIX_MICROS(CURRENT_TIMESTAMP()) - CAST(published_committed_at AS BIGINT) < 601200000000);

-- Why the published version cannot be exported again; NULL if it can.
SET VAR no_verification_because = CASE
  WHEN full_because IS NOT NULL THEN full_because
  WHEN changes_since > 0 AND vacuums_since > 0
    THEN CONCAT('VACUUM may have removed files of version ', CAST(published_version AS STRING), ' of the source')
  WHEN changes_since > 0 AND NOT is_recent
    THEN CONCAT('the source has changed', since, ', and Databricks reads no versions that are older than a week')
END;

SET VAR full_because = CASE
  WHEN verifies AND no_verification_because IS NOT NULL
    THEN RAISE_ERROR(CONCAT('The target cannot be verified: ', no_verification_because, '. Nothing was exported.'))
  ELSE full_because
END;

-- How changes are loaded; NULL if there are none, or if only all rows may be exported.
SET VAR load_mode = CASE
  WHEN
    full_because IS NULL
    AND changes_since > 0
    AND NOT verifies
    AND GET_JSON_OBJECT(published, '$.no_increment_because') IS NULL
    THEN GET_JSON_OBJECT(published, '$.increment.load')
END;

SET VAR had_feed = COALESCE(
  full_because IS NULL AND GET_JSON_OBJECT(published, '$.has_feed') = 'true' AND feed_reset_at <= published_version,
  FALSE
);

SET VAR has_feed = (had_feed OR feed_set_at IS NOT NULL);

SET VAR may_read_feed = (
  load_mode IS NOT NULL
  AND vacuums_since = 0
  AND (had_feed OR COALESCE(feed_set_at <= published_version + 1, FALSE))
);

SET VAR may_read_published = (load_mode IS NOT NULL AND vacuums_since = 0 AND is_recent);

-- An outer join that matches nothing returns the columns without reading a row.
SET VAR statement = CASE
  WHEN load_mode IS NOT NULL
    THEN CONCAT(
      'SELECT (SELECT TYPEOF(STRUCT(origin.*)) FROM (SELECT 1) AS nothing LEFT OUTER JOIN IDENTIFIER(:source_table)',
      ' VERSION AS OF ', CAST(to_version AS STRING), ' AS origin ON FALSE),',
      ' (SELECT COUNT(*) FROM IDENTIFIER(:source_table) VERSION AS OF ', CAST(to_version AS STRING), ')'
    )
  ELSE 'SELECT CAST(NULL AS STRING), CAST(NULL AS BIGINT) WHERE :source_table IS NOT NULL'
END;

EXECUTE IMMEDIATE statement INTO columns_now, rows_now USING source_table AS source_table;

SET VAR statement = CASE
  WHEN may_read_published
    THEN CONCAT(
      'SELECT (SELECT TYPEOF(STRUCT(origin.*)) FROM (SELECT 1) AS nothing LEFT OUTER JOIN IDENTIFIER(:source_table)',
      ' VERSION AS OF ', CAST(published_version AS STRING), ' AS origin ON FALSE),',
      ' (SELECT COUNT(*) FROM IDENTIFIER(:source_table) VERSION AS OF ', CAST(published_version AS STRING), ')'
    )
  ELSE 'SELECT CAST(NULL AS STRING), CAST(NULL AS BIGINT) WHERE :source_table IS NOT NULL'
END;

EXECUTE IMMEDIATE statement INTO columns_then, rows_then USING source_table AS source_table;

-- Why no changes are exported; NULL as long as they may be.
SET VAR no_changes_because = CASE
  WHEN load_mode IS NULL
    THEN CONCAT(
      'the source has changed', since,
      COALESCE(CONCAT(', and ', GET_JSON_OBJECT(published, '$.no_increment_because')), '')
    )
  WHEN
    columns_then <> columns_now
    OR name_changes_since > 0
    OR (columns_then IS NULL AND column_changes_since > 0)
    THEN CONCAT('the columns of the source may have changed', since)
  WHEN
    load_mode = 'merge' AND LOWER(columns_now) RLIKE '[<,]data_share_deleted:'
    THEN 'the source has a column of the name data_share_deleted, by which an export of changes marks deleted rows'
  WHEN vacuums_since > 0 THEN CONCAT('VACUUM may have removed files that changed', since)
  WHEN NOT may_read_feed AND NOT may_read_published
    THEN CONCAT(
      'the change data feed is not known to be on', since,
      ', and Databricks reads no versions that are older than a week'
    )
END;

SET VAR statement = CASE
  WHEN no_changes_because IS NULL AND may_read_feed
    THEN CONCAT(
      'SELECT COUNT(CASE WHEN _change_type <> "update_preimage" THEN 1 END),',
      ' COUNT(CASE WHEN _change_type <> "insert" THEN 1 END) FROM TABLE_CHANGES(:source_table, ',
      CAST(published_version + 1 AS STRING), ', ', CAST(to_version AS STRING), ')'
    )
  ELSE 'SELECT CAST(NULL AS BIGINT), CAST(NULL AS BIGINT) WHERE :source_table IS NOT NULL'
END;

EXECUTE IMMEDIATE statement INTO rows_in_feed, others_in_feed USING source_table AS source_table;

-- Two versions are compared if there is no feed, or if it has too much, as that of a table which is overwritten each
-- night. EXCEPT compares no maps and no variants, and it ignores what a collation ignores. A type comes after a colon,
-- or is that of an array; after "struct<" comes a name.
SET VAR is_comparable = (
  NOT LOWER(columns_now) RLIKE '(:|array<)(map<|variant|geometry|geography|interval|string collate)'
);

SET VAR may_compare = (
  no_changes_because IS NULL
  AND may_read_published
  AND is_comparable
  AND NOT COALESCE(CASE load_mode WHEN 'append' THEN others_in_feed = 0 ELSE rows_in_feed * 3 <= rows_now END, FALSE)
);

SET VAR statement = CASE
  WHEN may_compare
    THEN CONCAT(
      'SELECT COUNT(*) FROM (SELECT * FROM IDENTIFIER(:source_table) VERSION AS OF ', CAST(to_version AS STRING),
      ' EXCEPT ALL SELECT * FROM IDENTIFIER(:source_table) VERSION AS OF ', CAST(published_version AS STRING), ')'
    )
  ELSE 'SELECT CAST(NULL AS BIGINT) WHERE :source_table IS NOT NULL'
END;

EXECUTE IMMEDIATE statement INTO rows_changed USING source_table AS source_table;

-- The other rows of the later version were in the published one too.
SET VAR rows_gone = rows_then - (rows_now - rows_changed);

SET VAR decision = CASE
  WHEN verifies THEN 'verify'
  WHEN full_because IS NOT NULL THEN 'full'
  WHEN changes_since = 0 OR rows_in_feed = 0 OR rows_changed + rows_gone = 0 THEN 'nothing'
  WHEN no_changes_because IS NOT NULL THEN 'full'
  WHEN load_mode = 'append' AND others_in_feed = 0 THEN 'feed'
  WHEN load_mode = 'append' AND rows_gone = 0 THEN 'compare'
  WHEN load_mode = 'merge' AND rows_in_feed * 3 <= rows_now THEN 'feed'
  WHEN load_mode = 'merge' AND GREATEST(rows_changed, rows_gone) * 3 <= rows_now THEN 'compare'
  ELSE 'full'
END;

SET VAR reason = CASE decision
  WHEN 'verify' THEN CONCAT('the target is compared with version ', CAST(published_version AS STRING))
  WHEN 'nothing' THEN CONCAT('nothing new', since)
  WHEN 'feed' THEN CONCAT('the change data feed has ', CAST(rows_in_feed AS STRING), ' changes', since)
  WHEN 'compare'
    THEN CONCAT('at least ', CAST(GREATEST(rows_changed, rows_gone) AS STRING), ' rows have changed', since)
  ELSE COALESCE(
    full_because,
    no_changes_because,
    CASE
      WHEN load_mode = 'append' AND COALESCE(rows_gone, others_in_feed) > 0
        THEN CONCAT('rows of the source were changed or deleted', since)
      WHEN rows_changed IS NULL AND rows_in_feed IS NULL
        THEN 'the source has a column of a type that cannot be compared, and its change data feed is not known to be on'
      ELSE CONCAT('more than a third of the rows have changed', since)
    END
  )
END;

SET VAR reason = CASE
  WHEN
    decision = 'full'
    AND :mode <> 'describe'
    AND published_version >= 0
    AND GET_JSON_OBJECT(published, '$.increment.load') = 'append'
    THEN RAISE_ERROR(CONCAT(
      'An append adds only new rows, and it cannot be told which these are: ', reason, '. Nothing was exported.'
    ))
  ELSE reason
END;

SET VAR committed_at = CASE
  WHEN verifies AND changes_since > 0 THEN published_committed_at
  ELSE committed_at
END;

SET VAR to_version = CASE
  WHEN verifies AND changes_since > 0 THEN published_version
  ELSE to_version
END;

-- The names that other tasks refer to. to_version is the last: after it, the name would be that of this column, which
-- is never NULL, and no longer that of the variable.
SELECT
  reason AS export_reason,
  COALESCE(committed_at, '') AS committed_at,
  CASE WHEN :mode = 'describe' THEN 'describe' ELSE decision END AS export_mode,
  CASE WHEN decision IN ('feed', 'compare') THEN CAST(published_version AS STRING) ELSE '' END AS from_version,
  COALESCE(CASE WHEN to_version IS NOT NULL THEN table_id END, '') AS table_id,
  CASE WHEN has_feed AND to_version IS NOT NULL THEN 'true' ELSE '' END AS has_feed,
  COALESCE(CAST(to_version AS STRING), '') AS to_version;
