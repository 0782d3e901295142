"""COPY INTO a table from Parquet files on an external stage."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from sqlglot import exp

from sandbox.snowflake import translate
from sandbox.snowflake.errors import SqlError, does_not_exist, from_duckdb, syntax_error, unsupported
from sandbox.snowflake.names import name_of, qualified, stage_and_path

if TYPE_CHECKING:
    from sandbox.snowflake.engine import Cursor, Session, Stop

CREATE_LOADS_TABLE = """
CREATE TABLE IF NOT EXISTS "{database}"._fs_information_schema._sandbox_loads (
    schema_name VARCHAR, table_name VARCHAR, file_name VARCHAR, etag VARCHAR
)
"""
"""The load metadata: which version of which file a table has loaded. In the table's own database, so that it is
committed or rolled back together with the rows."""

_MAX_FILES = 1000
_MICROSECONDS = 6
_REFUSED = " is refused"
"""Put behind a value that DuckDB would cast and Snowflake does not, so that DuckDB does not either."""

_CONTINUE_HINT = (
    "  If you would like to continue loading when an error is encountered, use other values such as 'SKIP_FILE' or "
    "'CONTINUE' for the ON_ERROR option. For more information on loading options, please run 'info loading_data' in a "
    "SQL client."
)
_OTHER_OPTIONS = frozenset(
    {
        "ENFORCE_LENGTH", "INCLUDE_METADATA", "LOAD_MODE", "LOAD_UNCERTAIN_FILES", "RETURN_FAILED_ONLY", "SIZE_LIMIT",
        "TRUNCATECOLUMNS", "VALIDATION_MODE", "CLUSTER_AT_INGEST_TIME", "FILE_PROCESSOR",
    }
)  # fmt: skip
_RESULT = """
SELECT file, status, rows_parsed, rows_loaded, error_limit, errors_seen, first_error, NULL::BIGINT AS first_error_line,
       NULL::BIGINT AS first_error_character, NULL::VARCHAR AS first_error_column_name
FROM (VALUES {rows})
     AS results(file, status, rows_parsed, rows_loaded, error_limit, errors_seen, first_error)
"""


@dataclass
class _Options:
    """The options of one COPY."""

    file_format: dict[str, str | bool] = field(default_factory=dict)
    pattern: str | None = None
    files: list[str] | None = None
    match_case: bool | None = None
    """Whether MATCH_BY_COLUMN_NAME minds the case; None is NONE."""
    force: bool = False


@dataclass(frozen=True)
class _Column:
    """A column of the target table."""

    name: str
    type: str
    nullable: bool
    position: int
    declared: str | None
    """The type in Snowflake's words, where DuckDB's says less: :func:`sandbox.snowflake.translate.declared_type`."""

    @property
    def fraction_digits(self) -> int:
        """Digits of a second that a time or timestamp keeps, at most the six that DuckDB has."""
        found = re.search(r"\((\d)\)", self.declared or "")
        return min(int(found[1]), _MICROSECONDS) if found else _MICROSECONDS


@dataclass(frozen=True)
class _File:
    """A staged file."""

    bucket: str
    key: str
    etag: str
    size: int
    last_modified: datetime

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def copy_into(cursor: Cursor, expression: exp.Copy, stop: Stop) -> None:
    """
    Execute the statement and give ``cursor`` its result. The caller provides the transaction.

    :raises SqlError: as the real service; nothing of what was loaded before the error may be committed then.
    """
    session = cursor._conn
    if not isinstance(expression.this, exp.Table):
        raise unsupported("COPY INTO with a list of columns")
    database, schema, name = qualified(expression.this, session)
    columns = _columns(session, database, schema, name)
    if not columns:
        raise does_not_exist("Object", name_of(expression.this))
    stage_url, path, stage_format = _location(expression, session)
    options = _options(expression, stage_format)
    files = _list_files(session, stage_url, path, options)
    target = ".".join(f'"{part}"' for part in (database, schema, name))
    loads = f'"{database}"._fs_information_schema._sandbox_loads'
    connection = session._duck_conn
    known = set(
        connection.execute(
            f"SELECT file_name, etag FROM {loads} WHERE schema_name = ? AND table_name = ?", [schema, name]
        ).fetchall()
    )

    rows: list[tuple[Any, ...]] = []
    for file in files:
        stop.check()
        if (file.url, file.etag) in known and not options.force:
            # Only a file that was asked for by its name is reported as skipped.
            if options.files is not None:
                rows.append((file.url, "LOAD_SKIPPED", 0, 0, 1, 1, "File was loaded before."))
            continue
        count = _load(session, target, columns, file, options)
        connection.execute(f"INSERT INTO {loads} VALUES (?, ?, ?, ?)", [schema, name, file.url, file.etag])
        rows.append((file.url, "LOADED", count, count, 1, 0, None))
    if not rows:
        cursor.answer("SELECT 'Copy executed with 0 files processed.' AS \"status\"", expression)
        return
    cursor.answer(_RESULT.format(rows=", ".join(f"({', '.join(map(_literal, row))})" for row in rows)), expression)


def list_stage(cursor: Cursor, expression: exp.ListStage) -> None:
    """
    Execute LIST: the files below a path of an external stage.

    :raises SqlError: as the real service, also if the stage's place cannot be read.
    """
    session = cursor._conn
    found = stage_and_path(expression)
    if found is None or {name for name, value in expression.args.items() if value} != {"this"}:
        raise unsupported("LIST with more than a stage and a path")
    stage, path = found
    url = translate.stage_url(qualified(stage, session), session)
    files = _with_prefix(session, (url.rstrip("/") + "/" if path else url) + path)
    rows = [
        (file.url, file.size, file.etag.strip('"'), format_datetime(file.last_modified, usegmt=True)) for file in files
    ]
    values = ", ".join(f"({', '.join(map(_literal, row))})" for row in rows) or "(NULL, NULL::BIGINT, NULL, NULL)"
    where = "" if rows else " WHERE FALSE"
    cursor.answer(f"SELECT * FROM (VALUES {values}) AS files(name, size, md5, last_modified){where}", expression)


def forget_loads(cursor: Cursor, table: exp.Table) -> None:
    """Delete the load metadata of a table, which belongs to the table object and not to its name."""
    database, schema, name = qualified(table, cursor._conn)
    loads = f'"{database}"._fs_information_schema._sandbox_loads'
    cursor._duck_conn.execute(f"DELETE FROM {loads} WHERE schema_name = ? AND table_name = ?", [schema, name])


def move_loads(cursor: Cursor, table: exp.Table, new: exp.Table) -> None:
    """Let the load metadata follow a table to its new name."""
    database, schema, name = qualified(table, cursor._conn)
    loads = f'"{database}"._fs_information_schema._sandbox_loads'
    cursor._duck_conn.execute(
        f"UPDATE {loads} SET schema_name = ?, table_name = ? WHERE schema_name = ? AND table_name = ?",
        [*qualified(new, cursor._conn)[1:], schema, name],
    )


def _literal(value: object) -> str:
    if value is None:
        return "NULL::VARCHAR"
    return f"{value}::BIGINT" if isinstance(value, int) else exp.Literal.string(str(value)).sql("duckdb")


def _columns(session: Session, database: str, schema: str, name: str) -> list[_Column]:
    rows = session._duck_conn.execute(
        "SELECT column_name, data_type, is_nullable, column_index, comment FROM duckdb_columns()"
        " WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY column_index",
        [database, schema, name],
    ).fetchall()
    return [_Column(*row) for row in rows]


def _location(expression: exp.Copy, session: Session) -> tuple[str, str, dict[str, str | bool]]:
    """The URL of the stage in the FROM clause, the path below it, and the stage's file format."""
    source = expression.args["files"][0]
    if not isinstance(source, exp.Table):
        raise unsupported("COPY INTO with a transformation")
    found = stage_and_path(source)
    if found is None:
        raise unsupported("COPY INTO from a location that is not a stage")
    stage, path = found
    key = qualified(stage, session)
    url = translate.stage_url(key, session)
    if not url.startswith("s3://"):
        raise unsupported("COPY INTO from a stage that is not on S3")
    return (url.rstrip("/") + "/" if path else url), path, session.engine.catalogue.stage_formats.get(".".join(key), {})


def _options(expression: exp.Copy, stage_format: dict[str, str | bool]) -> _Options:
    """The options, checked: one that is not understood must never be ignored."""
    options = _Options(file_format=stage_format)
    for parameter in expression.args.get("params") or ():
        name, value = parameter.name.upper(), parameter.args.get("expression")
        word = value.name.upper() if isinstance(value, (exp.Var, exp.Literal)) else None
        switch = value.this if isinstance(value, exp.Boolean) else None
        if name == "FILE_FORMAT":
            options.file_format = translate.format_options(parameter.expressions)
        elif name == "PATTERN" and isinstance(value, exp.Literal):
            options.pattern = value.name
        elif name == "FILES":
            options.files = [literal.name for literal in parameter.find_all(exp.Literal)]
        elif name == "MATCH_BY_COLUMN_NAME" and word in {"CASE_INSENSITIVE", "CASE_SENSITIVE", "NONE"}:
            options.match_case = None if word == "NONE" else word == "CASE_SENSITIVE"
        elif name == "FORCE" and switch is not None:
            options.force = switch
        elif name in {"ON_ERROR", "PURGE"}:
            if not (word == "ABORT_STATEMENT" if name == "ON_ERROR" else switch is False):
                raise unsupported(f"{name} = {word or str(switch).upper()}")
        elif name in _OTHER_OPTIONS:
            raise unsupported(name)
        else:
            raise syntax_error(1, 0, name)
    _check_format(options.file_format)
    if options.files is not None and len(options.files) > _MAX_FILES:
        raise unsupported(f"FILES with more than {_MAX_FILES} names")
    if options.match_case is None:
        raise SqlError(
            2019,
            "0A000",
            "SQL compilation error:\nPARQUET file format can produce one and only one column of type variant, object, "
            "or array. Load data into separate columns using the MATCH_BY_COLUMN_NAME copy option or copy with "
            "transformation.",
        )
    return options


def _check_format(file_format: dict[str, str | bool]) -> None:
    if file_format.get("TYPE") != "PARQUET":
        raise unsupported(f"FILE_FORMAT TYPE = {file_format.get('TYPE', 'CSV')}")
    for name, value in file_format.items():
        allowed: dict[str, tuple[str | bool, ...]] = {
            "TYPE": ("PARQUET",),
            "COMPRESSION": ("AUTO", "SNAPPY"),
            "SNAPPY_COMPRESSION": (True,),
            "USE_LOGICAL_TYPE": (True,),
            "BINARY_AS_TEXT": (True, False),
            "USE_VECTORIZED_SCANNER": (True, False),
        }
        if value not in allowed.get(name, ()):
            raise unsupported(f"FILE_FORMAT {name} = {value}")
    if "USE_LOGICAL_TYPE" not in file_format:
        # Without it dates and decimals arrive as plain integers, which DuckDB's reader cannot show.
        raise unsupported("FILE_FORMAT without USE_LOGICAL_TYPE = TRUE")


def _list_files(session: Session, stage_url: str, path: str, options: _Options) -> list[_File]:
    """
    The files of the FROM clause: its location is a plain prefix.

    Snowflake's documentation applies PATTERN to the entire storage location, other descriptions to the path below the
    stage. A file that the pattern matches by one of them alone is not loaded, so that no pattern can rely on either.
    """
    location = stage_url + path
    if options.files is not None:
        found = [_named_file(session, location + name) for name in options.files]
    else:
        found = _with_prefix(session, location)
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


def _with_prefix(session: Session, location: str) -> list[_File]:
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    files: list[_File] = []
    more: dict[str, str] = {}
    while True:
        try:
            answer = session.engine.filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        except OSError as error:
            raise SqlError(91003, "22000", f"Failure using stage area. Cause: [{error}]") from None
        files += [
            _File(bucket, entry["Key"], entry["ETag"], entry["Size"], entry["LastModified"].astimezone(UTC))
            for entry in answer.get("Contents", ())
            if not entry["Key"].endswith("/")
        ]
        if not answer.get("IsTruncated"):
            return sorted(files, key=lambda file: file.key)
        more = {"ContinuationToken": answer["NextContinuationToken"]}


def _named_file(session: Session, url: str) -> _File:
    matches = [file for file in _with_prefix(session, url) if file.url == url]
    if not matches:
        raise SqlError(
            91016,
            "22000",
            f"Remote file '{url}' was not found. There are several potential causes. The file might not exist. The "
            "required credentials may be missing or invalid. If you are running a copy command, please make sure files "
            "are not deleted when they are being loaded or files are not being loaded into two different tables "
            "concurrently with auto purge option.",
        )
    return matches[0]


def _load(session: Session, target: str, columns: list[_Column], file: _File, options: _Options) -> int:
    """
    Insert the rows of one file.

    :returns: how many there were.
    """
    values = _values(session, columns, file, options)
    names = ", ".join(f'"{column.name}"' for column in columns)
    reader = f"read_parquet({_literal(file.url)}, file_row_number = true)"
    listed = ", ".join(values[column] for column in columns)
    try:
        answer = session._duck_conn.execute(f"INSERT INTO {target} ({names}) SELECT {listed} FROM {reader}")
        return int(answer.fetchall()[0][0])
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise _explain(session, target, columns, file, values, error) from error


def _values(session: Session, columns: list[_Column], file: _File, options: _Options) -> dict[_Column, str]:
    """For each column of the table the expression that reads it from the file."""
    try:
        with session.engine.filesystem.open(f"{file.bucket}/{file.key}", "rb", cache_type="readahead") as source:
            schema: pa.Schema = pq.read_schema(source)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        first = str(error).split("\n", 1)[0]
        raise SqlError(
            100152,
            "22000",
            f"Error parsing the parquet file: Invalid: {first}\n  File '{file.key}', line 1, character 0\n"
            f"{_CONTINUE_HINT}",
        ) from None
    values: dict[_Column, str] = {}
    for column in columns:
        matching = [
            index
            for index, name in enumerate(schema.names)
            if name == column.name or (not options.match_case and name.upper() == column.name.upper())
        ]
        if len(matching) > 1:
            raise SqlError(2025, "42S21", f"SQL compilation error:\nduplicate column name '{column.name}'")
        values[column] = _value(schema.field(matching[0]), column, options) if matching else "NULL"
    return values


def _value(source: pa.Field, column: _Column, options: _Options) -> str:
    """The expression that brings a file's column into the table's type, as a VARIANT is cast in Snowflake."""
    quoted = '"' + source.name.replace('"', '""') + '"'
    types = pa.types
    nested = types.is_nested(source.type)
    number = types.is_integer(source.type) or types.is_floating(source.type) or types.is_decimal(source.type)
    if types.is_binary(source.type) and options.file_format.get("BINARY_AS_TEXT", True):
        quoted = f"decode({quoted})"
    elif column.declared == "ARRAY" and not types.is_list(source.type):
        quoted = f"CASE WHEN {quoted} IS NOT NULL THEN to_json([{quoted}]) END"
    elif column.type == "JSON" or nested:
        quoted = f"to_json({quoted})"
    if nested and column.type not in {"VARCHAR", "BLOB"} and column.declared != "OBJECT":
        return quoted if column.type == "JSON" else f"CAST(CAST({quoted} AS VARCHAR) AS {column.type})"
    refused = (
        # DuckDB would cast these; Snowflake does not.
        (types.is_timestamp(source.type) and column.type == "DATE")
        or (number and column.type == "BOOLEAN")
        or (types.is_boolean(source.type) and column.type == "DOUBLE")
        or (nested and column.type == "BLOB")
        or (column.declared == "OBJECT" and not (types.is_struct(source.type) or types.is_map(source.type)))
    )
    if refused and column.type == "BLOB":
        # Any text would do for DuckDB.
        return f"CAST(unhex(CAST({quoted} AS VARCHAR) || '{_REFUSED}') AS BLOB)"
    if refused:
        return f"CAST(CAST({quoted} AS VARCHAR) || '{_REFUSED}' AS {column.type})"
    if types.is_floating(source.type) and column.type == "VARCHAR":
        quoted = f"format('{{:.10g}}', {quoted})"
    elif types.is_string(source.type) and column.type == "BLOB":
        quoted = f"unhex({quoted})"
    elif column.type.startswith("TIME"):
        quoted = _time(quoted, source.type, column)
    return f"CAST({quoted} AS {column.type})"


def _time(quoted: str, source: pa.DataType, column: _Column) -> str:
    """A time or timestamp with the digits of a second that its column keeps; the others are cut off."""
    is_seconds = column.type != "TIME" and (pa.types.is_integer(source) or pa.types.is_decimal(source))
    is_time = pa.types.is_temporal(source) or pa.types.is_string(source)
    is_time = is_time and not (column.type == "TIME" and pa.types.is_date(source))
    if is_seconds:
        quoted = f"make_timestamp(CAST(CAST({quoted} AS DOUBLE) * 1000000 AS BIGINT))"
    elif pa.types.is_timestamp(source) and source.tz and column.type == "TIME":
        quoted = f"CAST({quoted} AS TIMESTAMP)"
    if column.fraction_digits == _MICROSECONDS or not (is_seconds or is_time):
        return quoted
    step = 10 ** (_MICROSECONDS - column.fraction_digits)
    cast = f"CAST({quoted} AS {column.type})"
    # The remainder of a negative number is negative.
    return f"{cast} - to_microseconds((epoch_us({cast}) % {step} + {step}) % {step})"


def _explain(
    session: Session, target: str, columns: list[_Column], file: _File, values: dict[_Column, str], error: duckdb.Error
) -> SqlError:
    """Find the file's first value that the table does not take: DuckDB names neither the column nor the row."""
    # Another connection: the failed transaction answers nothing any more.
    with session.engine.duck_conn.cursor() as connection:
        for column in columns:
            value = values[column]
            reader = f"read_parquet({_literal(file.url)}, file_row_number = true)"
            source = value.removeprefix("CAST(").rsplit(" AS ", 1)[0] if value.startswith("CAST(") else value
            if value.startswith("CAST("):
                bad = f"{source} IS NOT NULL AND TRY_{value} IS NULL"
            else:
                bad = f"{value} IS NULL" if not column.nullable else "false"
            condition = bad if column.nullable else f"({bad}) OR ({source} IS NULL)"
            query = f"SELECT {source}, file_row_number + 1 FROM {reader} WHERE {condition} ORDER BY 2 LIMIT 1"
            try:
                row = connection.execute(query).fetchone()
            except duckdb.Error:
                # There is no cast at all between the two types: the first value that is there will do.
                query = f"SELECT {source}, file_row_number + 1 FROM {reader} WHERE {source} IS NOT NULL LIMIT 1"
                row = connection.execute(query).fetchone()
            if row:
                return _bad_value(target, column, file, row[0], row[1])
    reported = from_duckdb(error)
    where = f"\n  File '{file.key}'\n{_CONTINUE_HINT}"
    return SqlError(int(reported.errno or 0), str(reported.sqlstate), f"{reported.msg}{where}")


def _bad_value(target: str, column: _Column, file: _File, value: object, row: int) -> SqlError:
    table = target.rsplit(".", 1)[-1].strip('"')
    where = (
        f"\n  File '{file.key}', line {row}, character 0\n"
        f'  Row {row}, column "{table}"["{column.name}":{column.position}]\n{_CONTINUE_HINT}'
    )
    if value is None:
        return SqlError(100072, "22000", f"NULL result in a non-nullable column{where}")
    text = str(value).removesuffix(_REFUSED)
    is_number = isinstance(value, (int, float, Decimal)) or (text != value and column.type == "BOOLEAN")
    shown = text if is_number else f'"{text}"'
    return SqlError(100071, "22000", f"Failed to cast variant value {shown} to {_type_name(column.type)}{where}")


def _type_name(duckdb_type: str) -> str:
    """Snowflake's internal name of a type, as its cast errors have it."""
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
