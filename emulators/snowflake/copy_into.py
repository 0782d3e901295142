"""COPY INTO a table from Parquet files on an external stage."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from sqlglot import exp

from emulators.snowflake import load_metadata, stages
from emulators.snowflake.duckdb_names import quoted_for_duckdb, to_duckdb, to_snowflake
from emulators.snowflake.errors import (
    SqlError,
    does_not_exist,
    from_duckdb,
    invalid_property,
    invalid_value,
    syntax_error,
    unsupported,
)
from emulators.snowflake.names import name_of, stage_and_path
from emulators.snowflake.session import Session
from emulators.snowflake.stages import FormatOptions, StagedFile, literal
from emulators.snowflake.stop import Stop

_MICROSECONDS = 6
_REFUSED = " is refused"
"""Appended to a value that DuckDB would cast and Snowflake refuses to cast, so that the cast fails in DuckDB too."""

_CONTINUE_HINT = (
    "  If you would like to continue loading when an error is encountered, use other values such as 'SKIP_FILE' or "
    "'CONTINUE' for the ON_ERROR option. For more information on loading options, please run 'info loading_data' in a "
    "SQL client."
)
# Copy options that are TRUE or FALSE -> the only value that the emulator supports.
_SWITCHES = {
    "FORCE": False,
    "PURGE": False,
    "RETURN_FAILED_ONLY": False,
    "TRUNCATECOLUMNS": False,
    "ENFORCE_LENGTH": True,
}
_FORMAT_SWITCHES = frozenset(
    {"BINARY_AS_TEXT", "REPLACE_INVALID_CHARACTERS", "TRIM_SPACE", "USE_LOGICAL_TYPE", "USE_VECTORIZED_SCANNER"}
)
_ON_ERROR = re.compile(r"CONTINUE|SKIP_FILE(_\d+%?)?|ABORT_STATEMENT")
_LENGTH = re.compile(r"> (\d+)\)")
"""Finds the maximum length of a column in the CHECK constraint that translate.py adds for VARCHAR(n)."""

_OTHER_OPTIONS = frozenset(
    {"CLUSTER_AT_INGEST_TIME", "FILES", "INCLUDE_METADATA", "LOAD_MODE", "SIZE_LIMIT", "VALIDATION_MODE"}
)
"""Options that Snowflake has and this emulator does not support."""

_WHITE_SPACE = "' ' || chr(9) || chr(10) || chr(11) || chr(12) || chr(13)"
_INT96 = {b"physical": b"INT96"}
"""Marks a field that the file stores as INT96, which Arrow's type does not show."""

_RESULT = """
SELECT file, status, rows_parsed, rows_loaded, error_limit, errors_seen, first_error, NULL::BIGINT AS first_error_line,
       NULL::BIGINT AS first_error_character, NULL::VARCHAR AS first_error_column_name
FROM (VALUES {rows})
     AS results(file, status, rows_parsed, rows_loaded, error_limit, errors_seen, first_error)
"""


@dataclass
class _Format:
    """The options of a Parquet file format read by the vectorized scanner. The defaults are Snowflake's."""

    trim_space: bool = False
    null_if: tuple[str, ...] = ("\\N",)


@dataclass
class _Options:
    """The options of one COPY statement. The defaults are Snowflake's."""

    file_format: _Format = field(default_factory=_Format)
    pattern: str | None = None
    match_case: bool | None = None
    """True for MATCH_BY_COLUMN_NAME = CASE_SENSITIVE, False for CASE_INSENSITIVE, None for NONE."""


@dataclass(frozen=True)
class _Column:
    """A column of the target table."""

    name: str
    type: str
    nullable: bool
    position: int
    length: int | None
    """Maximum number of characters; None if the column declares no length."""
    declared: str | None
    """Snowflake's name of the type, if known: see :func:`emulators.snowflake.translate.declared_type`."""

    @property
    def fraction_digits(self) -> int:
        """Decimal places of the seconds of a time or timestamp; at most 6, because DuckDB has no more."""
        found = re.search(r"\((\d)\)", self.declared or "")
        return min(int(found[1]), _MICROSECONDS) if found else _MICROSECONDS


def copy_into(expression: exp.Copy, session: Session, stop: Stop) -> str:
    """
    Execute COPY INTO within the caller's transaction.

    :returns: a query in DuckDB's SQL whose result is the statement's result.
    :raises SqlError: what the real service reports. The caller must roll back the files loaded before the error.
    """
    if not isinstance(expression.this, exp.Table):
        raise unsupported("COPY INTO with a list of columns")
    database, schema, name = session.qualified(expression.this)
    columns = _columns(session, database, schema, name)
    if not columns:
        raise does_not_exist("Object", name_of(expression.this))
    stage_url, path, stage_format = _location(expression, session)
    options = _options(expression, stage_format)
    files = _list_files(session, stage_url, path, options)
    table = database, schema, name
    target = quoted_for_duckdb(*table)
    connection = session._duck_conn
    known = load_metadata.loaded(connection, table)

    rows: list[tuple[Any, ...]] = []
    for file in files:
        stop.check()
        if (file.url, file.etag) in known:
            continue
        count = _load(session, target, columns, file, options)
        load_metadata.note(connection, table, file.url, file.etag)
        rows.append((file.url, "LOADED", count, count, 1, 0, None))
    if not rows:
        return "SELECT 'Copy executed with 0 files processed.' AS \"status\""
    return _RESULT.format(rows=", ".join(f"({', '.join(map(literal, row))})" for row in rows))


def _columns(session: Session, database: str, schema: str, name: str) -> list[_Column]:
    rows = session._duck_conn.execute(
        "SELECT column_name, data_type, is_nullable, column_index, comment FROM duckdb_columns()"
        " WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY column_index",
        [database, schema, to_duckdb(name)],
    ).fetchall()
    checks = session._duck_conn.execute(
        "SELECT constraint_column_names[1], constraint_text FROM duckdb_constraints()"
        " WHERE constraint_type = 'CHECK' AND database_name = ? AND schema_name = ? AND table_name = ?",
        [database, schema, to_duckdb(name)],
    ).fetchall()
    lengths = {column: int(found[1]) for column, text in checks if (found := _LENGTH.search(text))}
    return [
        _Column(to_snowflake(name), type_, nullable, position, lengths.get(name), declared)
        for name, type_, nullable, position, declared in rows
    ]


def _location(expression: exp.Copy, session: Session) -> tuple[str, str, FormatOptions]:
    """Return what the FROM clause names: URL of the stage, path below the stage, file format of the stage."""
    source = expression.args["files"][0]
    if not isinstance(source, exp.Table):
        raise unsupported("COPY INTO with a transformation")
    found = stage_and_path(source)
    if found is None:
        raise unsupported("COPY INTO from a location that is not a stage")
    stage, path = found
    key = session.qualified(stage)
    url = stages.stage_url(key, session)
    if not url.startswith("s3://"):
        raise unsupported("COPY INTO from a stage that is not on S3")
    return (
        (url.rstrip("/") + "/" if path else url),
        path,
        session.account.catalogue.stage_formats.get(".".join(key), {}),
    )


def _options(expression: exp.Copy, stage_format: FormatOptions) -> _Options:
    """Read and check the options. An unknown option is an error: ignoring it could change what is loaded."""
    options = _Options()
    file_format = stage_format
    given_options: set[str] = set()
    for parameter in expression.args.get("params") or ():
        name, value = parameter.name.upper(), parameter.args.get("expression")
        word = value.name.upper() if isinstance(value, (exp.Var, exp.Literal)) else None
        if name in given_options:
            raise syntax_error(1, 0, name)
        given_options.add(name)
        if name in _SWITCHES or name == "LOAD_UNCERTAIN_FILES":
            if not isinstance(value, exp.Boolean):
                raise invalid_value(_shown(value), name)
            if value.this != _SWITCHES.get(name, value.this):
                raise unsupported(f"{name} = {_shown(value)}")
        elif name == "FILE_FORMAT":
            file_format = stages.format_options(parameter.expressions)
        elif name == "PATTERN" and isinstance(value, exp.Literal):
            options.pattern = value.name
        elif name == "MATCH_BY_COLUMN_NAME":
            if word not in {"CASE_INSENSITIVE", "CASE_SENSITIVE", "NONE"}:
                raise invalid_value(_shown(value), name)
            options.match_case = None if word == "NONE" else word == "CASE_SENSITIVE"
        elif name == "ON_ERROR":
            if word is None or not _ON_ERROR.fullmatch(word):
                raise invalid_value(_shown(value), name)
            if word != "ABORT_STATEMENT":
                raise unsupported(f"{name} = {word}")
        elif name in _OTHER_OPTIONS:
            raise unsupported(name)
        else:
            raise syntax_error(1, 0, name)
    if {"TRUNCATECOLUMNS", "ENFORCE_LENGTH"} <= given_options:
        # The two are opposites. The documentation does not say what both together mean.
        raise syntax_error(1, 0, "ENFORCE_LENGTH")
    options.file_format = _format(file_format)
    if options.match_case is None:
        raise SqlError(
            2019,
            "0A000",
            "SQL compilation error:\nPARQUET file format can produce one and only one column of type variant, object, "
            "or array. Load data into separate columns using the MATCH_BY_COLUMN_NAME copy option or copy with "
            "transformation.",
        )
    return options


def _shown(value: exp.Expr | None) -> str:
    return "" if value is None else value.sql("snowflake")


def _format(given: FormatOptions) -> _Format:
    """Read and check the file format. An unknown property is an error, as an unknown option is."""
    if given.get("TYPE") != "PARQUET":
        raise unsupported(f"FILE_FORMAT TYPE = {given.get('TYPE', 'CSV')}")
    for name, value in given.items():
        if name in _FORMAT_SWITCHES:
            allowed = isinstance(value, bool)
        elif name == "NULL_IF":
            allowed = isinstance(value, list)
        elif name in {"TYPE", "COMPRESSION"}:
            allowed = name == "TYPE" or value in {"AUTO", "SNAPPY", "NONE"}
        else:
            raise invalid_property(name, "FILE_FORMAT")
        if not allowed:
            raise invalid_value(str(value), name)
    if given.get("COMPRESSION", "AUTO") != "AUTO":
        raise unsupported(f"COMPRESSION = {given['COMPRESSION']}")
    if given.get("USE_VECTORIZED_SCANNER") is not True:
        raise unsupported("FILE_FORMAT without USE_VECTORIZED_SCANNER = TRUE")
    if given.get("REPLACE_INVALID_CHARACTERS") is True:
        raise unsupported("REPLACE_INVALID_CHARACTERS = TRUE")
    # The vectorized scanner always uses BINARY_AS_TEXT = FALSE and USE_LOGICAL_TYPE = TRUE, whatever is set.
    found = _Format(trim_space=given.get("TRIM_SPACE") is True)
    null_if = given.get("NULL_IF")
    if isinstance(null_if, list):
        found.null_if = tuple(null_if)
    return found


def _list_files(session: Session, stage_url: str, path: str, options: _Options) -> list[StagedFile]:
    """
    Return the files whose URL starts with the location in the FROM clause and matches PATTERN.

    Snowflake's documentation matches PATTERN against the entire storage location; other descriptions match it against
    the path below the stage. Here a file must match in both ways, so that no pattern can rely on one of them.
    """
    found = stages.files_below(session, stage_url + path)
    if options.pattern is None:
        return found
    try:
        pattern = re.compile(options.pattern)
    except re.error as error:
        raise SqlError(100048, "2201B", f"Invalid regular expression: '{options.pattern}', {error}") from None
    return [
        file
        for file in found
        if pattern.fullmatch(file.url) and pattern.fullmatch(file.url.removeprefix(stage_url).removeprefix("/"))
    ]


def _load(session: Session, target: str, columns: list[_Column], file: StagedFile, options: _Options) -> int:
    """
    Insert the rows of one file.

    :returns: the number of rows.
    """
    values = _values(session, columns, file, options)
    names = ", ".join(quoted_for_duckdb(column.name) for column in columns)
    listed = ", ".join(values[column] for column in columns)
    reader = f"read_parquet({literal(file.url)})"
    try:
        answer = session._duck_conn.execute(f"INSERT INTO {target} ({names}) SELECT {listed} FROM {reader}")
        return int(answer.fetchall()[0][0])
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise _explain(session, target, columns, file, values, error) from error


def _read(session: Session, file: StagedFile, columns: list[str] | None = None) -> pa.Table:
    with session.account.filesystem.open(f"{file.bucket}/{file.key}", "rb") as source:
        return pq.read_table(source, columns=columns, coerce_int96_timestamp_unit="us")


def _values(session: Session, columns: list[_Column], file: StagedFile, options: _Options) -> dict[_Column, str]:
    """Return, for each column of the table, the SQL expression that reads its value from the file."""
    fields = _fields(session, file)
    values: dict[_Column, str] = {}
    for column in columns:
        matching = [
            source
            for source in fields
            if source.name == column.name or (not options.match_case and source.name.upper() == column.name.upper())
        ]
        if len(matching) > 1:
            raise SqlError(2025, "42S21", f"SQL compilation error:\nduplicate column name '{column.name}'")
        values[column] = _value(matching[0], column, options) if matching else "NULL"
    return values


def _fields(session: Session, file: StagedFile) -> list[pa.Field]:
    """Return the file's columns. The metadata of an INT96 column is `_INT96`."""
    try:
        with session.account.filesystem.open(f"{file.bucket}/{file.key}", "rb", cache_type="readahead") as source:
            opened = pq.ParquetFile(source)
            schema, metadata = opened.schema_arrow, opened.metadata
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise _bad_file(file, f"Invalid: {str(error).split(chr(10), 1)[0]}") from None
    leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    int96 = {leaf.path for leaf in leaves if leaf.physical_type == "INT96"}
    return [source.with_metadata(_INT96) if source.name in int96 else source for source in schema]


def _bad_file(file: StagedFile, words: str) -> SqlError:
    return SqlError(
        100152,
        "22000",
        f"Error parsing the parquet file: {words}\n  File '{file.key}', line 1, character 0\n{_CONTINUE_HINT}",
    )


def _value(source: pa.Field, column: _Column, options: _Options) -> str:
    """Return the expression that casts a file's column to the table's type, as Snowflake casts a VARIANT."""
    cast_sql = _scanned(source, options.file_format)
    types = pa.types
    is_nested = types.is_nested(source.type)
    number = types.is_integer(source.type) or types.is_floating(source.type) or types.is_decimal(source.type)
    if is_nested:
        cast_sql = f"to_json({cast_sql})"
    if column.declared == "ARRAY" and not types.is_list(source.type):
        cast_sql = f"CASE WHEN {cast_sql} IS NOT NULL THEN to_json([{cast_sql}]) END"
    elif column.type == "JSON" and not is_nested:
        cast_sql = f"to_json({cast_sql})"
    if is_nested and column.type not in {"VARCHAR", "BLOB"} and column.declared != "OBJECT":
        return cast_sql if column.type == "JSON" else f"CAST(CAST({cast_sql} AS VARCHAR) AS {column.type})"
    refused = (
        # DuckDB casts these values; Snowflake refuses.
        (types.is_timestamp(source.type) and column.type == "DATE")
        or (number and column.type == "BOOLEAN")
        or (types.is_boolean(source.type) and column.type == "DOUBLE")
        or (is_nested and column.type == "BLOB")
        or (column.declared == "OBJECT" and not (types.is_struct(source.type) or types.is_map(source.type)))
    )
    if refused:
        # DuckDB casts almost any text to BLOB: an incomplete hex escape at the end makes the cast fail.
        words = _REFUSED + ("\\x" if column.type == "BLOB" else "")
        return f"CAST(CAST({cast_sql} AS VARCHAR) || '{words}' AS {column.type})"
    if types.is_floating(source.type) and column.type == "VARCHAR":
        cast_sql = f"format('{{:.10g}}', {cast_sql})"
    elif types.is_string(source.type) and column.type == "BLOB":
        cast_sql = f"unhex({cast_sql})"
    elif column.type.startswith("TIME"):
        is_instant = types.is_timestamp(source.type) and (source.type.tz is not None or source.metadata == _INT96)
        cast_sql = _time(cast_sql, source.type, column, is_instant=is_instant)
    return f"CAST({cast_sql} AS {column.type})"


def _time(cast_sql: str, source: pa.DataType, column: _Column, *, is_instant: bool) -> str:
    """Return the expression for a time or timestamp, truncated to the decimal places that its column keeps."""
    is_seconds = column.type != "TIME" and (pa.types.is_integer(source) or pa.types.is_decimal(source))
    is_time = pa.types.is_temporal(source) or pa.types.is_string(source)
    is_time = is_time and not (column.type == "TIME" and pa.types.is_date(source))
    if is_seconds:
        make = "make_timestamptz" if "TIME ZONE" in column.type else "make_timestamp"
        cast_sql = f"{make}(CAST(CAST({cast_sql} AS DOUBLE) * 1000000 AS BIGINT))"
    elif is_instant and column.type == "TIME":
        cast_sql = f"CAST({cast_sql} AS TIMESTAMP)"
    if column.fraction_digits == _MICROSECONDS or not (is_seconds or is_time):
        return cast_sql
    step = 10 ** (_MICROSECONDS - column.fraction_digits)
    cast = f"CAST({cast_sql} AS {column.type})"
    # Add the step before the second remainder: the remainder of a negative number is negative.
    return f"{cast} - to_microseconds((epoch_us({cast}) % {step} + {step}) % {step})"


def _scanned(source: pa.Field, file_format: _Format) -> str:
    """Return the expression for a file's column after the options of the file format are applied."""
    scanned: str = '"' + source.name.replace('"', '""') + '"'
    types = pa.types
    if source.metadata == _INT96:
        scanned = f"({scanned} AT TIME ZONE 'UTC')"
    if types.is_nested(source.type) or types.is_binary(source.type):
        return scanned
    if file_format.trim_space and types.is_string(source.type):
        scanned = f"TRIM({scanned}, {_WHITE_SPACE})"
    if file_format.null_if:
        nulls = ", ".join(map(literal, file_format.null_if))
        scanned = f"CASE WHEN CAST({scanned} AS VARCHAR) IN ({nulls}) THEN NULL ELSE {scanned} END"
    return scanned


def _explain(
    session: Session,
    target: str,
    columns: list[_Column],
    file: StagedFile,
    values: dict[_Column, str],
    error: duckdb.Error,
) -> SqlError:
    """Find the first value that the table refuses: DuckDB's error names neither the column nor the row."""
    reader = f"read_parquet({literal(file.url)}, file_row_number = true)"
    # A new connection, because a failed transaction of DuckDB runs no more queries.
    with session.account.duck_conn.cursor() as connection:
        session.use_time_zone(connection)
        for column in columns:
            cast_sql = values[column]
            is_cast = cast_sql.startswith("CAST(")
            source = cast_sql.removeprefix("CAST(").rsplit(" AS ", 1)[0] if is_cast else cast_sql
            if is_cast:
                bad = f"{source} IS NOT NULL AND TRY_{cast_sql} IS NULL"
                if column.length is not None:
                    bad = f"({bad}) OR LENGTH({cast_sql}) > {column.length}"
            else:
                bad = f"{cast_sql} IS NULL" if not column.nullable else "false"
            condition = bad if column.nullable else f"({bad}) OR ({source} IS NULL)"
            query = f"SELECT {source}, file_row_number + 1 FROM {reader} WHERE {condition} ORDER BY 2 LIMIT 1"
            try:
                row = connection.execute(query).fetchone()
            except duckdb.Error as failed:
                if "Invalid string encoding" in str(failed):
                    return _not_utf8(session, target, column, file)
                # DuckDB has no cast between the two types, so every value fails: report the first that is not NULL.
                query = f"SELECT {source}, file_row_number + 1 FROM {reader} WHERE {source} IS NOT NULL LIMIT 1"
                row = connection.execute(query).fetchone()
            if row:
                return _bad_value(target, column, file, row[0], row[1])
    reported = from_duckdb(error)
    where = f"\n  File '{file.key}'\n{_CONTINUE_HINT}"
    return SqlError(int(reported.errno or 0), str(reported.sqlstate), f"{reported.msg}{where}")


def _not_utf8(session: Session, target: str, column: _Column, file: StagedFile) -> SqlError:
    """Report a text that is not UTF-8. DuckDB cannot return such a value, so the file is read again with Arrow."""
    table = _read(session, file)
    [name] = [name for name in table.column_names if name.upper() == column.name.upper()]
    for number, value in enumerate(table.column(name).cast(pa.binary()).to_pylist(), start=1):
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            shown = value.decode(errors="backslashreplace")
            shown = re.sub(r"\\x(..)", lambda byte: f"0x{byte[1].upper()}", shown)
            return SqlError(
                100144, "22000", f"Invalid UTF8 detected in string '{shown}'{_where(target, column, file, number)}"
            )
    raise AssertionError(f"{file.url} holds UTF-8 in {name}")


def _where(target: str, column: _Column, file: StagedFile, row: int) -> str:
    table = to_snowflake(target.rsplit(".", 1)[-1].strip('"'))
    return (
        f"\n  File '{file.key}', line {row}, character 0\n"
        f'  Row {row}, column "{table}"["{column.name}":{column.position}]\n{_CONTINUE_HINT}'
    )


def _bad_value(target: str, column: _Column, file: StagedFile, value: object, row: int) -> SqlError:
    where = _where(target, column, file, row)
    if value is None:
        return SqlError(100072, "22000", f"NULL result in a non-nullable column{where}")
    text = str(value).removesuffix(_REFUSED)
    if column.length is not None and len(text) > column.length:
        limit = f"User character length limit ({column.length}) exceeded by string '{text}'"
        return SqlError(100074, "54000", f"{limit}{where}")
    is_number = isinstance(value, (int, float, Decimal)) or (text != value and column.type == "BOOLEAN")
    shown = text if is_number else f'"{text}"'
    return SqlError(100071, "22000", f"Failed to cast variant value {shown} to {_type_name(column.type)}{where}")


def _type_name(duckdb_type: str) -> str:
    """Return Snowflake's internal name of a type, which its cast errors show."""
    names = {
        "BIGINT": "FIXED",
        "HUGEINT": "FIXED",
        "DOUBLE": "REAL",
        "VARCHAR": "TEXT",
        "BLOB": "BINARY",
        "TIMESTAMP": "TIMESTAMP_NTZ",
        "TIMESTAMP WITH TIME ZONE": "TIMESTAMP_LTZ",
        "JSON": "VARIANT",
    }
    return "FIXED" if duckdb_type.startswith("DECIMAL") else names.get(duckdb_type, duckdb_type)
