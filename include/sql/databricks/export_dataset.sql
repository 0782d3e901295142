-- Exports one source table to the share as Parquet, then writes a manifest of the written files.
--
-- Inputs (named parameter markers, filled by the export job from its job parameters):
--   :source_table   Unity Catalog name of the table to export, in backticks where needed
--   :data_path      directory for the data files, ends in '/'
--   :manifest_path  directory for the manifest, ends in '/'
--   :run_key        key of this sync
--   :dataset        name of the dataset
--   :proof          checksums or counts: whether the manifest gets checksums of the values; chosen_checksums or
--                   chosen_counts for a dataset that chooses columns. An earlier version of this file refuses these
--                   two, and would export all columns.
--   :source         what leaves: empty for the whole table as it is, or JSON (see plugins/data_share/source.py). It has
--                   names of columns, and no SQL: {"columns": [{"name": "ssn", "alias": "person", "how": "hashed"}],
--                   "others": "kept"}. A column is kept, hashed or left_out, and others says the same of columns that
--                   are not in the list. where is the digest of a condition that this file has.
--                   known are the target's columns, in upper case; a column of the export that is not among them is
--                   refused or, with "new": "left_out", left out.
--   :mode           empty to export. describe writes the manifest alone, of what an export would have now: its columns,
--                   its number of rows, and the source's columns that stay. Then proof is described: an earlier version
--                   of this file, which does not know mode, refuses that, and would export.
--   :published      as in plan_export.sql; for an export of changes, increment has besides load the merge keys, by
--                   their names in the export, and deletes, true if deleted rows are exported too
--   :to_version, :from_version, :committed_at, :table_id, :has_feed, :export_mode, :export_reason
--                   the row of plan_export.sql. The table is read as it was in to_version, by all statements. Without a
--                   number in to_version, it is read as it is.
--
-- An export of changes has the newest state of each row that has changed since from_version, and in its last column,
-- data_share_deleted, whether the row is gone: from the source, or from those that the condition chooses. It may have
-- rows that have not changed. Of the change data feed, only the rows count that the condition chooses. In it, the state
-- before an update counts as a deletion that comes before an insertion of the same version: an update may have given
-- the row another key. If the newest change of a key is a deletion, the source may still have another row of this key,
-- as long as both were there for a while: then the source is asked. Without deletes, only rows that are there are
-- exported. Such an export needs keys that are unique, which it checks if nothing after it does.
--
-- Needs EXECUTE IMMEDIATE: any SQL warehouse, or runtime 14.3. INSERT OVERWRITE DIRECTORY needs its directory as a
-- literal; a parameter marker for it would need runtime 18, or version 2025.40 of a SQL warehouse. So this file builds
-- the statements that name a directory as texts. Before runtime 17.3, or version 2025.35, EXECUTE IMMEDIATE accepts
-- only literals and variables, as its text and as bound values: so each bound value has a variable.
--
-- Only the two directories and the names of columns become part of a text: the directories only if they have no
-- character that could end a literal or a name in backticks, the names in backticks, with their own doubled. All other
-- parameters are bound; the source table too, by IDENTIFIER. The source table is checked nevertheless: it must be a
-- table, not a directory that this job may read.
--
-- The manifest counts the files, not the table: so it describes what can be loaded, even if the table changes between
-- two statements. file_count counts the files that have rows, and bytes_exported is their size; a description has none.
-- The manifest is written last, so an export without a manifest did not finish.
--
-- column_types is a JSON list of the files' columns: each with its name, its type and, with checksums, the number of
-- values that are not NULL and the sum of 60 bits of the MD5 of each value's text. The sum does not depend on the order
-- of the rows. Snowflake formats the same value as the same text: numbers without trailing zeros, dates as days and
-- timestamps as microseconds since 1970, bytes as hexadecimal digits. FLOAT and DOUBLE are formatted differently by the
-- two sides: they have counts, minimum, maximum, sum and sum of the magnitudes instead. Structs, arrays, maps and types
-- that Snowflake lacks have only counts.
--
-- source_version, source_committed_at and source_table_id say which state of the source was exported; they are NULL for
-- a source without versions. source_rows is the number of rows that this state has, of those that leave. export_mode
-- and export_reason say how much of it was exported, and why. from_version is the version before the exported changes;
-- an export of all rows has none. source_has_feed says whether the change data feed is known to be on.
--
-- source_choice and source_condition say what was exported: the parameter source without the target's columns, and the
-- condition for the rows.
-- columns_that_stay is a JSON list of the source's columns that were left out.
--
-- This works for the columns of any table. Of a column, only its name becomes part of a text, in backticks, with its
-- own backticks doubled; {} is the placeholder for it. Spark replaces ${name} by a setting before it reads a text: a
-- column with such a name is refused.

DECLARE OR REPLACE VARIABLE source_table STRING;
DECLARE OR REPLACE VARIABLE data_path STRING;
DECLARE OR REPLACE VARIABLE manifest_path STRING;
DECLARE OR REPLACE VARIABLE run_key STRING;
DECLARE OR REPLACE VARIABLE dataset STRING;
DECLARE OR REPLACE VARIABLE only_describes BOOLEAN;
DECLARE OR REPLACE VARIABLE with_checksums BOOLEAN;
DECLARE OR REPLACE VARIABLE source STRING;
DECLARE OR REPLACE VARIABLE conditions MAP<STRING, ARRAY<STRING>>; -- noqa: LT01
DECLARE OR REPLACE VARIABLE condition STRING;
DECLARE OR REPLACE VARIABLE secret_scope STRING;
DECLARE OR REPLACE VARIABLE secret_key STRING;
DECLARE OR REPLACE VARIABLE chosen ARRAY<MAP<STRING, STRING>>; -- noqa: LT01
DECLARE OR REPLACE VARIABLE known ARRAY<STRING>;
DECLARE OR REPLACE VARIABLE is_whole BOOLEAN;
DECLARE OR REPLACE VARIABLE has_changes_only BOOLEAN;
DECLARE OR REPLACE VARIABLE load_mode STRING;
DECLARE OR REPLACE VARIABLE has_deletes BOOLEAN;
DECLARE OR REPLACE VARIABLE key_names ARRAY<STRING>;
DECLARE OR REPLACE VARIABLE keys ARRAY<MAP<STRING, STRING>>; -- noqa: LT01
DECLARE OR REPLACE VARIABLE key_columns STRING;
DECLARE OR REPLACE VARIABLE available ARRAY<STRING>;
DECLARE OR REPLACE VARIABLE exported ARRAY<MAP<STRING, STRING>>; -- noqa: LT01
DECLARE OR REPLACE VARIABLE columns_that_stay STRING;
DECLARE OR REPLACE VARIABLE source_version BIGINT;
DECLARE OR REPLACE VARIABLE source_committed_at TIMESTAMP;
DECLARE OR REPLACE VARIABLE source_table_id STRING;
DECLARE OR REPLACE VARIABLE source_has_feed BOOLEAN;
DECLARE OR REPLACE VARIABLE from_version BIGINT;
DECLARE OR REPLACE VARIABLE export_mode STRING;
DECLARE OR REPLACE VARIABLE export_reason STRING;
DECLARE OR REPLACE VARIABLE at_version STRING;
DECLARE OR REPLACE VARIABLE selected STRING;
DECLARE OR REPLACE VARIABLE chosen_rows STRING;
DECLARE OR REPLACE VARIABLE rows_now STRING;
DECLARE OR REPLACE VARIABLE rows_then STRING;
DECLARE OR REPLACE VARIABLE changes STRING;
DECLARE OR REPLACE VARIABLE same_keys STRING;
DECLARE OR REPLACE VARIABLE newest STRING;
DECLARE OR REPLACE VARIABLE rows_kept STRING;
DECLARE OR REPLACE VARIABLE export_query STRING;
DECLARE OR REPLACE VARIABLE source_rows BIGINT;
DECLARE OR REPLACE VARIABLE repeated_keys BIGINT;
DECLARE OR REPLACE VARIABLE statement STRING;
DECLARE OR REPLACE VARIABLE data_files STRING;
DECLARE OR REPLACE VARIABLE names ARRAY<STRING>;
DECLARE OR REPLACE VARIABLE types ARRAY<STRING>;
DECLARE OR REPLACE VARIABLE counted_rows BIGINT;
DECLARE OR REPLACE VARIABLE metadata STRING;
DECLARE OR REPLACE VARIABLE counted_files BIGINT;
DECLARE OR REPLACE VARIABLE counted_bytes BIGINT;
DECLARE OR REPLACE VARIABLE proofs ARRAY<MAP<STRING, STRING>>; -- noqa: LT01
DECLARE OR REPLACE VARIABLE column_types STRING;

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

SET VAR data_path = CASE
  WHEN :data_path RLIKE '^(s3:/)?(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*){2,}/\\z' THEN :data_path
  ELSE RAISE_ERROR(CONCAT(
    'The parameter data_path must be a directory, as s3://bucket/path/data/. Each part may have ASCII letters, digits ',
    'and _ . = -, must not begin with a dot, and must end in a slash.'
  ))
END;

SET VAR manifest_path = CASE
  WHEN :manifest_path RLIKE '^(s3:/)?(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*){2,}/\\z' THEN :manifest_path
  ELSE RAISE_ERROR(CONCAT(
    'The parameter manifest_path must be a directory, as s3://bucket/path/manifest/. Each part may have ASCII ',
    'letters, digits and _ . = -, must not begin with a dot, and must end in a slash.'
  ))
END;

SET VAR with_checksums = CASE :proof
  WHEN 'checksums' THEN TRUE
  WHEN 'chosen_checksums' THEN TRUE
  WHEN 'counts' THEN FALSE
  WHEN 'chosen_counts' THEN FALSE
  WHEN 'described' THEN FALSE
  ELSE RAISE_ERROR('The job parameter proof must be checksums or counts.')
END;

SET VAR only_describes = CASE
  WHEN :mode = '' AND :proof <> 'described' THEN FALSE
  WHEN :mode = 'describe' AND :proof = 'described' THEN TRUE
  ELSE RAISE_ERROR('The job parameter mode must be empty, or describe with the proof described. Nothing was exported.')
END;

SET VAR run_key = :run_key;
SET VAR dataset = :dataset;

-- If the job has not put the plan's row in, its references are here as they stand in the job: then nothing is pinned.
SET VAR source_version = CASE WHEN :to_version RLIKE '^[0-9]{1,18}\\z' THEN CAST(:to_version AS BIGINT) END;

SET VAR source_committed_at = CASE
  WHEN source_version IS NOT NULL AND :committed_at RLIKE '^[0-9]{1,18}\\z'
    THEN TIMESTAMP_MICROS(CAST(:committed_at AS BIGINT))
END;

SET VAR source_table_id = CASE WHEN source_version IS NOT NULL THEN :table_id END;
SET VAR source_has_feed = CASE WHEN source_version IS NOT NULL THEN :has_feed = 'true' END;

SET VAR from_version = CASE
  WHEN source_version IS NOT NULL AND :export_mode IN ('feed', 'compare') AND :from_version RLIKE '^[0-9]{1,18}\\z'
    THEN CAST(:from_version AS BIGINT)
END;

SET VAR has_changes_only = (from_version IS NOT NULL);

SET VAR export_mode = CASE
  WHEN :export_mode IN ('full', 'describe', 'verify') OR has_changes_only THEN :export_mode
  ELSE 'full'
END;

SET VAR export_reason = CASE
  WHEN :export_mode IN ('full', 'describe', 'verify') OR has_changes_only THEN :export_reason
  ELSE 'the plan of the export did not reach the export'
END;

SET VAR load_mode = GET_JSON_OBJECT(:published, '$.increment.load');

SET VAR has_deletes = CASE
  WHEN has_changes_only AND load_mode = 'merge'
    THEN COALESCE(GET_JSON_OBJECT(:published, '$.increment.deletes') = 'true', FALSE)
  ELSE FALSE
END;

SET VAR key_names = CASE
  WHEN NOT has_changes_only OR load_mode = 'append' THEN CAST(ARRAY() AS ARRAY<STRING>)
  WHEN
    load_mode = 'merge' AND GET_JSON_OBJECT(:published, '$.increment.keys') LIKE '["%'
    THEN FROM_JSON(GET_JSON_OBJECT(:published, '$.increment.keys'), 'ARRAY<STRING>')
  ELSE RAISE_ERROR(
    'The job parameter published must say in increment how changes are loaded: append, or merge with keys.'
  )
END;

-- Databricks accepts a number as VERSION AS OF only as a literal.
SET VAR at_version = COALESCE(' VERSION AS OF ' || CAST(source_version AS STRING), '');

SET VAR source = CASE
  WHEN :source = '' AND :proof IN ('checksums', 'counts', 'described') THEN '{"columns": [], "others": "kept"}'
  WHEN GET_JSON_OBJECT(:source, '$.others') IN ('kept', 'left_out') THEN :source
  ELSE RAISE_ERROR('The job parameter source must be JSON, or empty with the proofs checksums and counts.')
END;

-- By dataset, the digest and the text of its condition (source.where). make render writes them in place of this map.
SET VAR conditions = CAST(MAP() AS MAP<STRING, ARRAY<STRING>>); -- noqa: LT01

-- A dataset file without a condition does not fit a job that has one either.
SET VAR condition = CASE
  WHEN COALESCE(GET_JSON_OBJECT(source, '$.where'), '') = COALESCE(TRY_ELEMENT_AT(conditions, dataset)[0], '')
    THEN COALESCE(TRY_ELEMENT_AT(conditions, dataset)[1], '')
  ELSE RAISE_ERROR(CONCAT(
    'This job has another condition for the rows of ', dataset, ' than the dataset file (source.where): run make ',
    'render, and deploy the bundle again. Nothing was exported.'
  ))
END;

-- The scope and the key of the secret of hashes, as Databricks stores it. make render writes them in these texts.
SET VAR secret_scope = '';
SET VAR secret_key = '';

SET VAR chosen = FROM_JSON(GET_JSON_OBJECT(source, '$.columns'), 'ARRAY<MAP<STRING, STRING>>');

-- A filter with COALESCE: a comparison with a value that is missing is NULL, and not an error.
SET VAR chosen = CASE
  WHEN
    SIZE(FILTER(chosen, c -> COALESCE(
      c['name'] RLIKE '^[^\\x00-\\x1f\\x7f]{1,255}\\z'
      AND c['alias'] RLIKE '^[^\\x00-\\x1f\\x7f]{1,255}\\z'
      AND NOT c['name'] || ' ' || c['alias'] RLIKE '[$][{]'
      AND c['how'] IN ('kept', 'hashed', 'left_out'),
      FALSE
    ))) = SIZE(chosen)
    THEN chosen
  ELSE RAISE_ERROR(CONCAT(
    'The job parameter source must list columns with name, alias and how. A name has 1 to 255 characters, no control ',
    'character, and no dollar sign before a brace.'
  ))
END;

SET VAR known = FROM_JSON(GET_JSON_OBJECT(source, '$.known'), 'ARRAY<STRING>');

-- Of changes, the columns are named: the change data feed has columns of its own.
SET VAR is_whole = SIZE(chosen) = 0 AND known IS NULL AND NOT only_describes AND NOT has_changes_only;

-- The names of the source's columns, only if they are needed.
SET VAR statement = CASE
  WHEN is_whole THEN 'SELECT CAST(ARRAY() AS ARRAY<STRING>) WHERE :source_table IS NOT NULL'
  ELSE CONCAT(
    'SELECT JSON_OBJECT_KEYS(TO_JSON(STRUCT(origin.*), MAP("ignoreNullFields", "false")))',
    ' FROM (SELECT 1) AS nothing LEFT OUTER JOIN IDENTIFIER(:source_table)', at_version, ' AS origin ON FALSE'
  )
END;

EXECUTE IMMEDIATE statement INTO available USING source_table AS source_table;

-- Also for a column that is left out: a misspelt one would leave.
SET VAR chosen = CASE
  WHEN
    SIZE(FILTER(chosen, c -> ARRAY_CONTAINS(TRANSFORM(available, n -> LOWER(n)), LOWER(c['name'])))) = SIZE(chosen)
    THEN chosen
  ELSE RAISE_ERROR(CONCAT(
    'The source lacks these columns, which the dataset file names: ',
    ARRAY_JOIN(
      TRANSFORM(
        FILTER(chosen, c -> NOT ARRAY_CONTAINS(TRANSFORM(available, n -> LOWER(n)), LOWER(c['name']))),
        c -> c['name']
      ),
      ', '
    ),
    '. Nothing was exported.'
  ))
END;

SET VAR exported = FILTER(
  TRANSFORM(
    available,
    n -> COALESCE(
      TRY_ELEMENT_AT(FILTER(chosen, c -> LOWER(c['name']) = LOWER(n)), 1),
      MAP('name', n, 'alias', n, 'how', GET_JSON_OBJECT(source, '$.others'))
    )
  ),
  c -> c['how'] <> 'left_out'
);

-- COPY INTO matches names in this way: it ignores the case of the letters A to Z.
SET VAR exported = CASE
  WHEN known IS NULL THEN exported
  WHEN GET_JSON_OBJECT(source, '$.new') = 'left_out'
    THEN FILTER(exported, c -> ARRAY_CONTAINS(
      known, TRANSLATE(c['alias'], 'abcdefghijklmnopqrstuvwxyz', 'ABCDEFGHIJKLMNOPQRSTUVWXYZ')
    ))
  WHEN
    SIZE(FILTER(exported, c -> ARRAY_CONTAINS(
      known, TRANSLATE(c['alias'], 'abcdefghijklmnopqrstuvwxyz', 'ABCDEFGHIJKLMNOPQRSTUVWXYZ')
    ))) = SIZE(exported)
    THEN exported
  ELSE RAISE_ERROR(CONCAT(
    'The export would have columns that the target lacks: ',
    ARRAY_JOIN(
      TRANSFORM(
        FILTER(exported, c -> NOT ARRAY_CONTAINS(
          known, TRANSLATE(c['alias'], 'abcdefghijklmnopqrstuvwxyz', 'ABCDEFGHIJKLMNOPQRSTUVWXYZ')
        )),
        c -> c['alias']
      ),
      ', '
    ),
    '. Nothing was exported. Add them to the target, leave them out by source.exclude in the dataset file, or set ',
    'schema_drift there: add_new adds them to the target, ignore_new leaves them in Databricks.'
  ))
END;

-- What is recorded is the choice, without the columns of the target, which come last. A quote within a name is escaped.
SET VAR source = REGEXP_REPLACE(source, ', "known": .*', '}');

SET VAR exported = CASE
  WHEN is_whole THEN exported
  WHEN ARRAY_JOIN(TRANSFORM(exported, c -> c['name']), ' ') RLIKE '[$][{]'
    THEN RAISE_ERROR(
      'A column has a dollar sign before a brace in its name: export a view that gives it another name.'
    )
  WHEN SIZE(FILTER(exported, c -> c['how'] = 'hashed')) > 0 AND secret_scope = ''
    THEN RAISE_ERROR(
      'This job does not know the secret of hashes: run make render, and deploy the bundle again. Nothing was exported.'
    )
  WHEN SIZE(exported) = 0
    THEN RAISE_ERROR(CONCAT(
      'No column is left to export: see source in the dataset file, and the columns of the target. ',
      'Nothing was exported.'
    ))
  WHEN SIZE(ARRAY_DISTINCT(TRANSFORM(exported, c -> LOWER(c['alias'])))) = SIZE(exported) THEN exported
  ELSE RAISE_ERROR(CONCAT(
    'Two columns would have the same name in the export, whose columns would be ',
    ARRAY_JOIN(TRANSFORM(exported, c -> c['alias']), ', '),
    '. Change source.rename in the dataset file. Nothing was exported.'
  ))
END;

SET VAR columns_that_stay = TO_JSON(FILTER(
  available,
  n -> NOT ARRAY_CONTAINS(TRANSFORM(exported, c -> LOWER(c['name'])), LOWER(n))
));

-- In a statement that writes, Databricks accepts SECRET only within AES_ENCRYPT. The key of AES_ENCRYPT is no secret:
-- it makes of the secret a text that only the secret determines, and that is hashed in front of the value.
SET VAR selected = CASE
  WHEN is_whole THEN '*'
  ELSE ARRAY_JOIN(TRANSFORM(exported, c -> REPLACE(
    CASE c['how']
      WHEN 'hashed'
        THEN
          'SHA2(HEX(AES_ENCRYPT(SECRET("' || secret_scope || '", "' || secret_key || '"), "0123456789abcdef", "ECB"))'
          || ' || CAST({} AS STRING), 256)'
      ELSE '{}'
    END,
    '{}',
    '`' || REPLACE(c['name'], '`', '``') || '`'
  ) || ' AS `' || REPLACE(c['alias'], '`', '``') || '`'), ', ')
END;

SET VAR chosen_rows = CASE WHEN condition = '' THEN '' ELSE CONCAT(' WHERE (', condition, ')') END;
SET VAR rows_now = CONCAT('SELECT ', selected, ' FROM IDENTIFIER(:source_table)', at_version, chosen_rows);

SET VAR rows_then = CONCAT(
  'SELECT ', selected, ' FROM IDENTIFIER(:source_table) VERSION AS OF ', CAST(from_version AS STRING), chosen_rows
);

SET VAR keys = FILTER(exported, c -> ARRAY_CONTAINS(TRANSFORM(key_names, k -> LOWER(k)), LOWER(c['alias'])));

SET VAR keys = CASE
  WHEN SIZE(keys) = SIZE(key_names) THEN keys
  ELSE RAISE_ERROR(CONCAT(
    'The export lacks a merge key: one of ', ARRAY_JOIN(key_names, ', '), '. Nothing was exported.'
  ))
END;

SET VAR statement = CASE
  WHEN SIZE(keys) = 0 THEN 'SELECT CAST(ARRAY() AS ARRAY<STRING>) WHERE :source_table IS NOT NULL'
  ELSE CONCAT(
    'SELECT ARRAY(',
    ARRAY_JOIN(TRANSFORM(keys, c -> 'TYPEOF(origin.' || '`' || REPLACE(c['name'], '`', '``') || '`' || ')'), ', '),
    ') FROM (SELECT 1) AS nothing LEFT OUTER JOIN IDENTIFIER(:source_table)', at_version, ' AS origin ON FALSE'
  )
END;

EXECUTE IMMEDIATE statement INTO types USING source_table AS source_table;

-- Keys are compared as they are stored: a collation takes texts as equal that are two keys in Snowflake.
SET VAR keys = ZIP_WITH(keys, types, (c, t) -> MAP_CONCAT(
  c, MAP('stored', CASE WHEN t LIKE 'string collate %' THEN ' COLLATE UTF8_BINARY' ELSE '' END)
));

-- The merge keys as the source names them.
SET VAR key_columns = ARRAY_JOIN(
  TRANSFORM(keys, c -> '`' || REPLACE(c['name'], '`', '``') || '`' || c['stored']), ', '
);

SET VAR changes = CONCAT(
  ' FROM TABLE_CHANGES(:source_table, ', CAST(from_version + 1 AS STRING), ', ', CAST(source_version AS STRING), ')'
);

-- That a row of left_rows and one of right_rows have the same merge keys.
SET VAR same_keys = ARRAY_JOIN(
  TRANSFORM(keys, c -> REPLACE(
    'left_rows.{} = right_rows.{}', '{}', '`' || REPLACE(c['alias'], '`', '``') || '`' || c['stored']
  )),
  ' AND '
);

-- The newest change of each key, of the rows that the condition chooses: another row of the key says nothing of it.
-- data_share_is_unclear: a deletion, but the key has got at least as many rows as it has lost. Either it was new and is
-- gone again; or it had two rows for a while, and still has one.
-- A row without a key was never published: that it is gone again says nothing.
SET VAR newest = CONCAT(
  'SELECT *, data_share_deleted AND data_share_balance >= 0 AS data_share_is_unclear FROM (SELECT ', selected,
  ', _change_type IN ("delete", "update_preimage") AS data_share_deleted, ROW_NUMBER() OVER (PARTITION BY ',
  key_columns, ' ORDER BY _commit_version DESC, _change_type IN ("insert", "update_postimage") DESC)',
  ' AS data_share_rank, SUM(CASE WHEN _change_type IN ("delete", "update_preimage") THEN -1 ELSE 1 END)',
  ' OVER (PARTITION BY ', key_columns, ') AS data_share_balance', changes, chosen_rows, ') AS ranked',
  ' WHERE data_share_rank = 1 AND NOT (data_share_deleted AND (',
  ARRAY_JOIN(TRANSFORM(keys, c -> '`' || REPLACE(c['alias'], '`', '``') || '`' || ' IS NULL'), ' OR '), '))'
);

-- Those of the unclear keys that still have a row.
SET VAR rows_kept = CONCAT(
  'SELECT left_rows.* FROM (', rows_now, ') AS left_rows LEFT SEMI JOIN (SELECT * FROM (', newest,
  ') AS newest WHERE data_share_is_unclear) AS right_rows ON ', same_keys
);

SET VAR export_query = CASE
  WHEN NOT has_changes_only THEN rows_now
  WHEN export_mode = 'compare' AND NOT has_deletes THEN CONCAT(rows_now, ' EXCEPT ALL ', rows_then)
  WHEN export_mode = 'compare'
    THEN CONCAT(
      'SELECT *, FALSE AS data_share_deleted FROM (', rows_now, ' EXCEPT ALL ', rows_then, ') AS changed',
      ' UNION ALL SELECT *, TRUE AS data_share_deleted FROM (', rows_then, ') AS left_rows LEFT ANTI JOIN (', rows_now,
      ') AS right_rows ON ', same_keys
    )
  WHEN load_mode = 'append'
    THEN CONCAT(
      'SELECT ', selected, changes, COALESCE(NULLIF(chosen_rows, ''), ' WHERE TRUE'), ' AND _change_type = "insert"'
    )
  ELSE CONCAT(
    'SELECT ', ARRAY_JOIN(TRANSFORM(exported, c -> 'left_rows.`' || REPLACE(c['alias'], '`', '``') || '`'), ', '),
    CASE WHEN has_deletes THEN ', data_share_deleted' ELSE '' END,
    ' FROM (', newest, ') AS left_rows LEFT ANTI JOIN (', rows_kept, ') AS right_rows ON ', same_keys,
    CASE WHEN has_deletes THEN '' ELSE ' WHERE NOT data_share_deleted' END,
    ' UNION ALL SELECT *', CASE WHEN has_deletes THEN ', FALSE AS data_share_deleted' ELSE '' END,
    ' FROM (', rows_kept, ') AS kept'
  )
END;

-- How many rows the target must have afterwards. If nothing compares the two numbers, because the target keeps rows
-- that the source lacks, then a repeated key must be found here: of two rows that have it, one may not have changed.
SET VAR statement = CASE
  WHEN NOT has_changes_only THEN 'SELECT CAST(NULL AS BIGINT), CAST(0 AS BIGINT) WHERE :source_table IS NOT NULL'
  ELSE CONCAT(
    'SELECT COUNT(*), ',
    CASE
      WHEN has_deletes OR SIZE(keys) = 0 THEN 'CAST(0 AS BIGINT)'
      ELSE CONCAT('COUNT(*) - COUNT(DISTINCT ', key_columns, ')')
    END,
    ' FROM IDENTIFIER(:source_table)', at_version, chosen_rows
  )
END;

EXECUTE IMMEDIATE statement INTO source_rows, repeated_keys USING source_table AS source_table;

SET VAR source_rows = CASE
  WHEN repeated_keys = 0 THEN source_rows
  ELSE RAISE_ERROR(CONCAT(
    'The merge keys ', ARRAY_JOIN(key_names, ', '), ' do not identify the rows of the source: ',
    CAST(repeated_keys AS STRING), ' rows have a key that another row has, or none. Nothing was exported.'
  ))
END;

-- Without an export, a query whose result nobody reads.
SET VAR statement = CASE
  WHEN only_describes THEN 'SELECT 1 AS nothing WHERE :source_table IS NOT NULL'
  ELSE CONCAT('INSERT OVERWRITE DIRECTORY "', data_path, '" USING PARQUET ', export_query)
END;

EXECUTE IMMEDIATE statement USING source_table AS source_table;

-- What the manifest describes: the files or, without an export, the query.
SET VAR data_files = CASE
  WHEN only_describes THEN CONCAT('(', export_query, ')')
  ELSE CONCAT('parquet.`', data_path, '`')
END;

-- An outer join that matches nothing returns the columns without reading a row, also for an empty export.
SET VAR statement = CONCAT(
  'SELECT JSON_OBJECT_KEYS(TO_JSON(STRUCT(files.*), MAP("ignoreNullFields", "false")))',
  ' FROM (SELECT 1) AS nothing LEFT OUTER JOIN ', data_files, ' AS files ON FALSE'
);

EXECUTE IMMEDIATE statement INTO names USING source_table AS source_table;

SET VAR names = CASE
  WHEN ARRAY_JOIN(names, ' ') NOT RLIKE '[$][{]' THEN names
  ELSE RAISE_ERROR('A column has a dollar sign before a brace in its name: export a view that gives it another name.')
END;

SET VAR statement = CONCAT(
  'SELECT ARRAY(',
  ARRAY_JOIN(TRANSFORM(names, n -> 'TYPEOF(files.`' || REPLACE(n, '`', '``') || '`)'), ', '),
  ') FROM (SELECT 1) AS nothing LEFT OUTER JOIN ', data_files, ' AS files ON FALSE'
);

EXECUTE IMMEDIATE statement INTO types USING source_table AS source_table;

-- A column named _metadata hides the files' metadata; Spark then adds underscores in front of the metadata's name.
SET VAR metadata = ELEMENT_AT(
  FILTER(
    TRANSFORM(SEQUENCE(1, SIZE(names) + 1), k -> REPEAT('_', k) || 'metadata'),
    m -> NOT ARRAY_CONTAINS(TRANSFORM(names, n -> LOWER(n)), m)
  ),
  1
);

-- Each row of a file has the file's size.
SET VAR statement = CASE
  WHEN only_describes THEN 'SELECT CAST(0 AS BIGINT), CAST(NULL AS BIGINT) WHERE :source_table IS NOT NULL'
  ELSE CONCAT(
    'SELECT COUNT(*), COALESCE(SUM(file_bytes), 0) FROM (SELECT DISTINCT ', metadata, '.file_path AS file_path, ',
    metadata, '.file_size AS file_bytes FROM ', data_files, ') AS files'
  )
END;

EXECUTE IMMEDIATE statement INTO counted_files, counted_bytes USING source_table AS source_table;

SET VAR statement = CONCAT(
  'SELECT COUNT(*), ',
  CASE
    WHEN with_checksums
      THEN 'ARRAY(' || ARRAY_JOIN(ZIP_WITH(names, types, (n, t) -> REPLACE(
        'MAP("filled", CAST(COUNT({}) AS STRING)'
        || CASE
          WHEN t IN ('float', 'double')
            THEN
              ', "finite", CAST(COUNT(CASE WHEN ABS({}) < DOUBLE("Infinity") THEN 1 END) AS STRING)'
              || ', "infinite", CAST(COUNT(CASE WHEN {} = DOUBLE("Infinity") THEN 1 END) AS STRING)'
              || ', "negative_infinite", CAST(COUNT(CASE WHEN {} = DOUBLE("-Infinity") THEN 1 END) AS STRING)'
              || ', "minimum", CAST(MIN(CASE WHEN ABS({}) < DOUBLE("Infinity") THEN DOUBLE({}) END) AS STRING)'
              || ', "maximum", CAST(MAX(CASE WHEN ABS({}) < DOUBLE("Infinity") THEN DOUBLE({}) END) AS STRING)'
              || ', "total", CAST(SUM(CASE WHEN ABS({}) < DOUBLE("Infinity") THEN DOUBLE({}) END) AS STRING)'
              || ', "magnitude", '
              || 'CAST(SUM(CASE WHEN ABS({}) < DOUBLE("Infinity") THEN ABS(DOUBLE({})) END) AS STRING)'
          ELSE COALESCE(
            ', "checksum", CAST(SUM(CAST(CONV(SUBSTR(MD5('
            || CASE
              WHEN t IN ('tinyint', 'smallint', 'int', 'bigint') THEN 'CAST({} AS STRING)'
              WHEN t LIKE 'decimal(%' THEN 'FORMAT_NUMBER({}, "0." || REPEAT("#", 38))'
              WHEN t = 'boolean' THEN 'CAST(CAST({} AS INT) AS STRING)'
              WHEN t = 'date' THEN 'CAST(UNIX_DATE({}) AS STRING)'
              WHEN t = 'timestamp' THEN 'CAST(UNIX_MICROS({}) AS STRING)'
              WHEN t = 'timestamp_ntz'
                THEN 'CAST(TIMESTAMPDIFF(MICROSECOND, TIMESTAMP_NTZ"1970-01-01 00:00:00", {}) AS STRING)'
              WHEN t = 'binary' THEN 'HEX({})'
              WHEN t LIKE 'string%' THEN '{}'
            END
            || '), 1, 15), 16, 10) AS DECIMAL(20, 0))) AS STRING)',
            ''
          )
        END
        || ')',
        '{}',
        '`' || REPLACE(n, '`', '``') || '`'
      )), ', ') || ')'
    ELSE 'CAST(ARRAY() AS ARRAY<MAP<STRING, STRING>>)'
  END,
  ' FROM ', data_files
);

EXECUTE IMMEDIATE statement INTO counted_rows, proofs USING source_table AS source_table;

SET VAR source_rows = COALESCE(source_rows, counted_rows);

SET VAR column_types = TO_JSON(ZIP_WITH(
  ZIP_WITH(names, types, (n, t) -> MAP('name', n, 'type', t)),
  proofs,
  (c, p) -> MAP_CONCAT(c, COALESCE(p, MAP()))
));

SET VAR statement = CONCAT(
  'INSERT OVERWRITE DIRECTORY "', manifest_path, '" USING PARQUET',
  ' SELECT :run_key AS run_key, :dataset AS dataset, :source_table AS source_table, :row_count AS row_count,',
  ' :file_count AS file_count, :column_types AS column_types, :source_choice AS source_choice,',
  ' :source_condition AS source_condition, :columns_that_stay AS columns_that_stay,',
  ' :source_table_id AS source_table_id, :source_version AS source_version,',
  ' :source_committed_at AS source_committed_at, :source_has_feed AS source_has_feed, :from_version AS from_version,',
  ' :export_mode AS export_mode, :export_reason AS export_reason, :source_rows AS source_rows,',
  ' :bytes_exported AS bytes_exported,',
  ' CURRENT_TIMESTAMP() AS exported_at'
);

EXECUTE IMMEDIATE statement
USING run_key AS run_key, dataset AS dataset, source_table AS source_table, counted_rows AS row_count,
counted_files AS file_count, column_types AS column_types, source AS source_choice, condition AS source_condition,
columns_that_stay AS columns_that_stay, source_table_id AS source_table_id, source_version AS source_version,
source_committed_at AS source_committed_at, source_has_feed AS source_has_feed, from_version AS from_version,
export_mode AS export_mode, export_reason AS export_reason, source_rows AS source_rows, counted_bytes AS bytes_exported;
