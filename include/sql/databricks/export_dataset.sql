-- Exports one source table to the share as Parquet, then writes the manifest of what it wrote.
--
-- Inputs (named parameter markers, filled by the export job from its job parameters):
--   :source_table   Unity Catalog name of the table to export, in backticks where it needs them
--   :data_path      directory for the data files, ends in '/'
--   :manifest_path  directory for the manifest, ends in '/'
--   :run_key        names this sync
--   :dataset        name of the dataset
--   :proof          checksums, or counts: whether the values of the files are summed up too
--
-- Takes any SQL warehouse, or runtime 14.3: that has EXECUTE IMMEDIATE. INSERT OVERWRITE DIRECTORY takes its directory
-- as a literal; a marker in its place takes runtime 18, or version 2025.40 of a SQL warehouse. So the statements that
-- name a directory are made here as texts. Before runtime 17.3, or version 2025.35, EXECUTE IMMEDIATE takes its text
-- and what it binds as literals or variables only: so each value that is bound has a variable.
--
-- Of the parameters, nothing becomes text but the two directories, and only when all of their characters are among
-- those that end no literal and no name in backticks. All else is bound; the source table too, by IDENTIFIER. It is
-- checked all the same: it has to be a table, and no directory that this job may read.
--
-- The manifest is counted from the files and not from the table: it says what can be loaded, also when the table
-- changes between two statements. file_count counts the files that hold rows. The manifest is written last, so that an
-- export without one is an export that did not finish.
--
-- column_types is a list of the files' columns as JSON: each with its name, its type and, with checksums, what its
-- values sum up to: how many are filled, and the sum of 60 bits of the MD5 of each value's text. The order of the rows
-- does not matter, and the texts are such that Snowflake makes the same of the same value: numbers without zeros at
-- their end, dates as days and timestamps as microseconds since 1970, bytes as digits. The text of a binary fraction
-- is not the same everywhere: of FLOAT and DOUBLE, these are counts, minimum, maximum, sum and sum of the magnitudes.
-- Structs, arrays, maps and what Snowflake does not have are counted only.
--
-- The columns are those of any table. Of a column, nothing gets into the texts but its name in backticks, its own
-- backticks doubled; {} stands for it until then. Spark replaces a dollar sign with a name in braces, before it reads
-- a text: a column of such a name is refused.

DECLARE OR REPLACE VARIABLE source_table STRING;
DECLARE OR REPLACE VARIABLE data_path STRING;
DECLARE OR REPLACE VARIABLE manifest_path STRING;
DECLARE OR REPLACE VARIABLE run_key STRING;
DECLARE OR REPLACE VARIABLE dataset STRING;
DECLARE OR REPLACE VARIABLE with_checksums BOOLEAN;
DECLARE OR REPLACE VARIABLE statement STRING;
DECLARE OR REPLACE VARIABLE data_files STRING;
DECLARE OR REPLACE VARIABLE names ARRAY<STRING>;
DECLARE OR REPLACE VARIABLE types ARRAY<STRING>;
DECLARE OR REPLACE VARIABLE counted_rows BIGINT;
DECLARE OR REPLACE VARIABLE counted_files BIGINT;
DECLARE OR REPLACE VARIABLE proofs ARRAY<MAP<STRING, STRING>>; -- noqa: LT01
DECLARE OR REPLACE VARIABLE column_types STRING;

-- \z is the end of the text; a $ would let a line feed pass behind it.
SET VAR source_table = CASE
  WHEN
    :source_table RLIKE CONCAT(
      '^([A-Za-z_][A-Za-z0-9_]*|`([^`./ \\x00-\\x1f\\x7f]|``)+`)',
      '([.]([A-Za-z_][A-Za-z0-9_]*|`([^`./ \\x00-\\x1f\\x7f]|``)+`)){2}\\z'
    )
    THEN :source_table
  ELSE RAISE_ERROR(CONCAT(
    'The job parameter source_table must be a table, as catalog.schema.table. A name with other characters than ',
    'letters of ASCII, digits and underscores stands in backticks. No name holds a point, a blank or a slash.'
  ))
END;

SET VAR data_path = CASE
  WHEN :data_path RLIKE '^(s3:/)?(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*){2,}/\\z' THEN :data_path
  ELSE RAISE_ERROR(CONCAT(
    'The parameter data_path must be a directory, as s3://bucket/path/data/. Its steps consist of letters of ASCII, ',
    'digits and _ . = -, begin with no point, and each ends in a slash.'
  ))
END;

SET VAR manifest_path = CASE
  WHEN :manifest_path RLIKE '^(s3:/)?(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*){2,}/\\z' THEN :manifest_path
  ELSE RAISE_ERROR(CONCAT(
    'The parameter manifest_path must be a directory, as s3://bucket/path/manifest/. Its steps consist of letters of ',
    'ASCII, digits and _ . = -, begin with no point, and each ends in a slash.'
  ))
END;

SET VAR with_checksums = CASE :proof
  WHEN 'checksums' THEN TRUE
  WHEN 'counts' THEN FALSE
  ELSE RAISE_ERROR('The job parameter proof must be checksums or counts.')
END;

SET VAR run_key = :run_key;
SET VAR dataset = :dataset;
SET VAR data_files = CONCAT('parquet.`', data_path, '`');

-- What is exported: here is the place for other columns, and for a version of the table.
SET VAR statement = CONCAT(
  'INSERT OVERWRITE DIRECTORY "', data_path, '" USING PARQUET',
  ' SELECT *',
  ' FROM IDENTIFIER(:source_table)'
);

EXECUTE IMMEDIATE statement USING source_table AS source_table;

-- A join that finds nothing has the columns all the same: no row is read, and there need be none.
SET VAR statement = CONCAT(
  'SELECT JSON_OBJECT_KEYS(TO_JSON(STRUCT(files.*), MAP("ignoreNullFields", "false")))',
  ' FROM (SELECT 1) AS nothing LEFT OUTER JOIN ', data_files, ' AS files ON FALSE'
);

EXECUTE IMMEDIATE statement INTO names;

SET VAR names = CASE
  WHEN ARRAY_JOIN(names, ' ') NOT RLIKE '[$][{]' THEN names
  ELSE RAISE_ERROR('A column has a dollar sign before a brace in its name: export a view that gives it another name.')
END;

SET VAR statement = CONCAT(
  'SELECT ARRAY(',
  ARRAY_JOIN(TRANSFORM(names, n -> 'TYPEOF(files.`' || REPLACE(n, '`', '``') || '`)'), ', '),
  ') FROM (SELECT 1) AS nothing LEFT OUTER JOIN ', data_files, ' AS files ON FALSE'
);

EXECUTE IMMEDIATE statement INTO types;

-- A column named _metadata hides the metadata of the files, which then have one more underscore in front.
SET VAR statement = CONCAT(
  'SELECT COUNT(*), COUNT(DISTINCT ',
  ELEMENT_AT(
    FILTER(
      TRANSFORM(SEQUENCE(1, SIZE(names) + 1), k -> REPEAT('_', k) || 'metadata'),
      m -> NOT ARRAY_CONTAINS(TRANSFORM(names, n -> LOWER(n)), m)
    ),
    1
  ),
  '.file_path), ',
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

EXECUTE IMMEDIATE statement INTO counted_rows, counted_files, proofs;

SET VAR column_types = TO_JSON(ZIP_WITH(
  ZIP_WITH(names, types, (n, t) -> MAP('name', n, 'type', t)),
  proofs,
  (c, p) -> MAP_CONCAT(c, COALESCE(p, MAP()))
));

SET VAR statement = CONCAT(
  'INSERT OVERWRITE DIRECTORY "', manifest_path, '" USING PARQUET',
  ' SELECT :run_key AS run_key, :dataset AS dataset, :source_table AS source_table, :row_count AS row_count,',
  ' :file_count AS file_count, :column_types AS column_types, CURRENT_TIMESTAMP() AS exported_at'
);

EXECUTE IMMEDIATE statement
USING run_key AS run_key, dataset AS dataset, source_table AS source_table, counted_rows AS row_count,
counted_files AS file_count, column_types AS column_types;
