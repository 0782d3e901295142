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
-- The columns are those of any table, so the two queries about them are made here and run by EXECUTE IMMEDIATE. Of a
-- column, nothing gets into them but its name in backticks, its own backticks doubled; {} stands for it until then.

DECLARE OR REPLACE VARIABLE with_checksums BOOLEAN;
DECLARE OR REPLACE VARIABLE names ARRAY<STRING>;
DECLARE OR REPLACE VARIABLE types ARRAY<STRING>;
DECLARE OR REPLACE VARIABLE query STRING;
DECLARE OR REPLACE VARIABLE counted_rows BIGINT;
DECLARE OR REPLACE VARIABLE counted_files BIGINT;
DECLARE OR REPLACE VARIABLE proofs ARRAY<MAP<STRING, STRING>>; -- noqa: LT01

SET VAR with_checksums = CASE :proof
  WHEN 'checksums' THEN TRUE
  WHEN 'counts' THEN FALSE
  ELSE RAISE_ERROR('The job parameter proof must be checksums or counts.')
END;

INSERT OVERWRITE DIRECTORY :data_path
USING PARQUET
SELECT * FROM IDENTIFIER(:source_table);

-- A join that finds nothing has the columns all the same: no row is read, and there need be none.
SET VAR names = (
  SELECT JSON_OBJECT_KEYS(TO_JSON(STRUCT(files.*), MAP('ignoreNullFields', 'false')))
  FROM (SELECT 1) AS nothing
  LEFT OUTER JOIN IDENTIFIER('parquet.`' || :data_path || '`') AS files
    ON FALSE
);

SET VAR query = CONCAT(
  'SELECT ARRAY(',
  ARRAY_JOIN(TRANSFORM(names, n -> 'TYPEOF(files.`' || REPLACE(n, '`', '``') || '`)'), ', '),
  ') FROM (SELECT 1) AS nothing',
  ' LEFT OUTER JOIN IDENTIFIER("parquet.`" || :files || "`") AS files ON FALSE'
);

EXECUTE IMMEDIATE query INTO types USING :data_path AS files;

-- A column named _metadata hides the metadata of the files, which then have one more underscore in front.
SET VAR query = CONCAT(
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
  ' FROM IDENTIFIER("parquet.`" || :files || "`")'
);

EXECUTE IMMEDIATE query INTO counted_rows, counted_files, proofs USING :data_path AS files;

INSERT OVERWRITE DIRECTORY :manifest_path
USING PARQUET
SELECT
  :run_key AS run_key,
  :dataset AS dataset,
  :source_table AS source_table,
  counted_rows AS row_count,
  counted_files AS file_count,
  TO_JSON(ZIP_WITH(
    ZIP_WITH(names, types, (n, t) -> MAP('name', n, 'type', t)),
    proofs,
    (c, p) -> MAP_CONCAT(c, COALESCE(p, MAP()))
  )) AS column_types,
  CURRENT_TIMESTAMP() AS exported_at;
