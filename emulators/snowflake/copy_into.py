"""COPY INTO a table from Parquet files on an external stage."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from sqlglot import exp

from emulators.snowflake import load_metadata, stages
from emulators.snowflake.duckdb_names import in_duckdb, inner, outer
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

_MAX_FILES = 1000
_MICROSECONDS = 6
_REFUSED = " is refused"
"""Put behind a value that DuckDB would cast and Snowflake does not, so that DuckDB does not either."""

_CONTINUE_HINT = (
    "  If you would like to continue loading when an error is encountered, use other values such as 'SKIP_FILE' or "
    "'CONTINUE' for the ON_ERROR option. For more information on loading options, please run 'info loading_data' in a "
    "SQL client."
)
_SWITCHES = frozenset(
    {"ENFORCE_LENGTH", "FORCE", "LOAD_UNCERTAIN_FILES", "PURGE", "RETURN_FAILED_ONLY", "TRUNCATECOLUMNS"}
)
_FORMAT_SWITCHES = frozenset(
    {"BINARY_AS_TEXT", "REPLACE_INVALID_CHARACTERS", "TRIM_SPACE", "USE_LOGICAL_TYPE", "USE_VECTORIZED_SCANNER"}
)
_ON_ERROR = re.compile(r"CONTINUE|SKIP_FILE(_\d+%?)?|ABORT_STATEMENT")
_LENGTH = re.compile(r"> (\d+)\)")
"""The most characters of a column, in the constraint that translate.py makes of VARCHAR(n)."""

_OTHER_OPTIONS = frozenset({"CLUSTER_AT_INGEST_TIME", "INCLUDE_METADATA", "LOAD_MODE", "VALIDATION_MODE"})
"""Options that the service has and this emulator has not."""

_WHITE_SPACE = "' ' || chr(9) || chr(10) || chr(11) || chr(12) || chr(13)"
_INT96 = {b"physical": b"INT96"}
"""Metadata of a field that the file stores as INT96: Arrow's type does not tell."""

_RESULT = """
SELECT file, status, rows_parsed, rows_loaded, error_limit, errors_seen, first_error, NULL::BIGINT AS first_error_line,
       NULL::BIGINT AS first_error_character, NULL::VARCHAR AS first_error_column_name
FROM (VALUES {rows})
     AS results(file, status, rows_parsed, rows_loaded, error_limit, errors_seen, first_error)
"""


@dataclass
class _Format:
    """A file format of Parquet, with the service's defaults."""

    compression: str = "AUTO"
    vectorized: bool = False
    logical_types: bool = False
    binary_as_text: bool = True
    trim_space: bool = False
    replace_invalid_characters: bool = False
    null_if: tuple[str, ...] = ("\\N",)


@dataclass
class _Options:
    """The options of one COPY, with the service's defaults."""

    file_format: _Format = field(default_factory=_Format)
    pattern: str | None = None
    files: list[str] | None = None
    match_case: bool | None = None
    """Whether MATCH_BY_COLUMN_NAME minds the case; None is NONE."""
    force: bool = False
    truncate: bool = False
    purge: bool = False
    failed_only: bool = False
    size_limit: int | None = None


@dataclass(frozen=True)
class _Column:
    """A column of the target table."""

    name: str
    type: str
    nullable: bool
    position: int
    length: int | None
    """The most characters that it takes; None is no limit of its own."""
    declared: str | None
    """The type in Snowflake's words, where DuckDB's says less: :func:`emulators.snowflake.translate.declared_type`."""

    @property
    def fraction_digits(self) -> int:
        """Digits of a second that a time or timestamp keeps, at most the six that DuckDB has."""
        found = re.search(r"\((\d)\)", self.declared or "")
        return min(int(found[1]), _MICROSECONDS) if found else _MICROSECONDS


def copy_into(expression: exp.Copy, session: Session, stop: Stop) -> str:
    """
    Execute the statement and return its answer as a query in DuckDB's SQL. The caller provides the transaction.

    :raises SqlError: as the real service; nothing of what was loaded before the error may be committed then.
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
    target = in_duckdb(*table)
    connection = session._duck_conn
    known = load_metadata.loaded(connection, table)

    rows: list[tuple[Any, ...]] = []
    loaded: list[StagedFile] = []
    for file in files:
        stop.check()
        if options.size_limit is not None and sum(each.size for each in loaded) > options.size_limit:
            break
        if (file.url, file.etag) in known and not options.force:
            # Only a file that was asked for by its name is reported as skipped.
            if options.files is not None:
                rows.append((file.url, "LOAD_SKIPPED", 0, 0, 1, 1, "File was loaded before."))
            continue
        count = _load(session, target, columns, file, options)
        load_metadata.note(connection, table, file.url, file.etag)
        rows.append((file.url, "LOADED", count, count, 1, 0, None))
        loaded.append(file)
    if options.purge:
        for file in loaded:
            # As in the real service, a file that cannot be removed is no error.
            with contextlib.suppress(OSError):
                session.account.filesystem.rm_file(f"{file.bucket}/{file.key}")
    if not rows:
        return "SELECT 'Copy executed with 0 files processed.' AS \"status\""
    result = _RESULT.format(rows=", ".join(f"({', '.join(map(literal, row))})" for row in rows))
    # A file that fails ends the statement: none of those in the result has failed.
    return f"{result} WHERE FALSE" if options.failed_only else result


def _columns(session: Session, database: str, schema: str, name: str) -> list[_Column]:
    rows = session._duck_conn.execute(
        "SELECT column_name, data_type, is_nullable, column_index, comment FROM duckdb_columns()"
        " WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY column_index",
        [database, schema, inner(name)],
    ).fetchall()
    checks = session._duck_conn.execute(
        "SELECT constraint_column_names[1], constraint_text FROM duckdb_constraints()"
        " WHERE constraint_type = 'CHECK' AND database_name = ? AND schema_name = ? AND table_name = ?",
        [database, schema, inner(name)],
    ).fetchall()
    lengths = {column: int(found[1]) for column, text in checks if (found := _LENGTH.search(text))}
    return [
        _Column(outer(name), type_, nullable, position, lengths.get(name), declared)
        for name, type_, nullable, position, declared in rows
    ]


def _location(expression: exp.Copy, session: Session) -> tuple[str, str, FormatOptions]:
    """The URL of the stage in the FROM clause, the path below it, and the stage's file format."""
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
    """The options, checked: one that is not understood must never be ignored."""
    options = _Options()
    file_format = stage_format
    switches: dict[str, bool] = {}
    stated: set[str] = set()
    for parameter in expression.args.get("params") or ():
        name, value = parameter.name.upper(), parameter.args.get("expression")
        word = value.name.upper() if isinstance(value, (exp.Var, exp.Literal)) else None
        if name in stated:
            raise syntax_error(1, 0, name)
        stated.add(name)
        if name in _SWITCHES:
            switches[name] = _switch(name, value)
        elif name == "FILE_FORMAT":
            file_format = stages.format_options(parameter.expressions)
        elif name == "PATTERN" and isinstance(value, exp.Literal):
            options.pattern = value.name
        elif name == "FILES":
            options.files = [literal.name for literal in parameter.find_all(exp.Literal)]
        elif name == "MATCH_BY_COLUMN_NAME":
            if word not in {"CASE_INSENSITIVE", "CASE_SENSITIVE", "NONE"}:
                raise invalid_value(_shown(value), name)
            options.match_case = None if word == "NONE" else word == "CASE_SENSITIVE"
        elif name == "SIZE_LIMIT":
            if not (isinstance(value, exp.Literal) and value.is_number and value.name.isdigit() and int(value.name)):
                raise invalid_value(_shown(value), name)
            options.size_limit = int(value.name)
        elif name == "ON_ERROR":
            if word is None or not _ON_ERROR.fullmatch(word):
                raise invalid_value(_shown(value), name)
            if word != "ABORT_STATEMENT":
                raise unsupported(f"{name} = {word}")
        elif name in _OTHER_OPTIONS:
            raise unsupported(name)
        else:
            raise syntax_error(1, 0, name)
    _use_switches(options, switches)
    options.file_format = _format(file_format)
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


def _switch(name: str, value: exp.Expr | None) -> bool:
    if not isinstance(value, exp.Boolean):
        raise invalid_value(_shown(value), name)
    return bool(value.this)


def _shown(value: exp.Expr | None) -> str:
    return "" if value is None else value.sql("snowflake")


def _use_switches(options: _Options, switches: dict[str, bool]) -> None:
    if {"TRUNCATECOLUMNS", "ENFORCE_LENGTH"} <= switches.keys():
        # One says the opposite of the other: both together have no meaning that is documented.
        raise syntax_error(1, 0, "ENFORCE_LENGTH")
    options.force = switches.get("FORCE", False)
    options.purge = switches.get("PURGE", False)
    options.failed_only = switches.get("RETURN_FAILED_ONLY", False)
    options.truncate = switches.get("TRUNCATECOLUMNS", False) or not switches.get("ENFORCE_LENGTH", True)


def _format(given: FormatOptions) -> _Format:
    """The file format, checked as the options are."""
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
    found = _Format(
        compression=str(given.get("COMPRESSION", "AUTO")),
        vectorized=given.get("USE_VECTORIZED_SCANNER") is True,
        logical_types=given.get("USE_LOGICAL_TYPE") is True,
        binary_as_text=given.get("BINARY_AS_TEXT") is not False,
        trim_space=given.get("TRIM_SPACE") is True,
        replace_invalid_characters=given.get("REPLACE_INVALID_CHARACTERS") is True,
    )
    null_if = given.get("NULL_IF")
    if isinstance(null_if, list):
        found.null_if = tuple(null_if)
    if found.vectorized:
        # The vectorized scanner takes these two for what it can do, whatever they are set to.
        found.logical_types, found.binary_as_text = True, False
    if not found.logical_types:
        # Without it dates and decimals arrive as plain integers, which DuckDB's reader cannot show.
        raise unsupported("FILE_FORMAT without USE_LOGICAL_TYPE = TRUE and without USE_VECTORIZED_SCANNER = TRUE")
    return found


def _list_files(session: Session, stage_url: str, path: str, options: _Options) -> list[StagedFile]:
    """
    The files of the FROM clause: its location is a plain prefix.

    Snowflake's documentation applies PATTERN to the entire storage location, other descriptions to the path below the
    stage. A file that the pattern matches by one of them alone is not loaded, so that no pattern can rely on either.
    """
    location = stage_url + path
    if options.files is not None:
        found = [_named_file(session, location + name) for name in options.files]
    else:
        found = stages.files_below(session, location)
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


def _named_file(session: Session, url: str) -> StagedFile:
    matches = [file for file in stages.files_below(session, url) if file.url == url]
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


def _load(session: Session, target: str, columns: list[_Column], file: StagedFile, options: _Options) -> int:
    """
    Insert the rows of one file.

    :returns: how many there were.
    """
    values = _values(session, columns, file, options)
    names = ", ".join(in_duckdb(column.name) for column in columns)
    listed = ", ".join(values[column] for column in columns)
    with _readable(session, file, options) as url:
        reader = f"read_parquet({literal(url)})"
        try:
            answer = session._duck_conn.execute(f"INSERT INTO {target} ({names}) SELECT {listed} FROM {reader}")
            return int(answer.fetchall()[0][0])
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            raise _explain(session, target, columns, file, values, url, error) from error


@contextlib.contextmanager
def _readable(session: Session, file: StagedFile, options: _Options) -> Iterator[str]:
    """The place of a file that DuckDB can read."""
    if not options.file_format.replace_invalid_characters:
        yield file.url
        return
    # DuckDB refuses texts that are not UTF-8: it reads a copy of the file, in which they are.
    table = _read(session, file)
    for number, column in enumerate(table.schema):
        if pa.types.is_string(column.type):
            raw = table.column(number).cast(pa.binary()).to_pylist()
            texts = [None if value is None else value.decode(errors="replace") for value in raw]
            table = table.set_column(number, column, pa.array(texts, pa.string()))
    with tempfile.NamedTemporaryFile(suffix=".parquet") as copied:
        pq.write_table(table, copied.name)
        yield copied.name


def _read(session: Session, file: StagedFile, columns: list[str] | None = None) -> pa.Table:
    with session.account.filesystem.open(f"{file.bucket}/{file.key}", "rb") as source:
        return pq.read_table(source, columns=columns, coerce_int96_timestamp_unit="us")


def _values(session: Session, columns: list[_Column], file: StagedFile, options: _Options) -> dict[_Column, str]:
    """For each column of the table the expression that reads it from the file."""
    fields = _fields(session, file, options)
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


def _fields(session: Session, file: StagedFile, options: _Options) -> list[pa.Field]:
    """The file's columns; those of INT96 say so in their metadata."""
    try:
        with session.account.filesystem.open(f"{file.bucket}/{file.key}", "rb", cache_type="readahead") as source:
            opened = pq.ParquetFile(source)
            schema, metadata = opened.schema_arrow, opened.metadata
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise _bad_file(file, f"Invalid: {str(error).split(chr(10), 1)[0]}") from None
    leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    codecs = {
        "NONE" if (codec := metadata.row_group(group).column(leaf).compression) == "UNCOMPRESSED" else codec
        for group in range(metadata.num_row_groups)
        for leaf in range(metadata.num_columns)
    }
    if options.file_format.compression != "AUTO" and (others := codecs - {options.file_format.compression}):
        raise _bad_file(file, f"compressed with {', '.join(sorted(others))}")
    int96 = {leaf.path for leaf in leaves if leaf.physical_type == "INT96"}
    return [source.with_metadata(_INT96) if source.name in int96 else source for source in schema]


def _bad_file(file: StagedFile, words: str) -> SqlError:
    return SqlError(
        100152,
        "22000",
        f"Error parsing the parquet file: {words}\n  File '{file.key}', line 1, character 0\n{_CONTINUE_HINT}",
    )


def _value(source: pa.Field, column: _Column, options: _Options) -> str:
    """The expression that brings a file's column into the table's type, as a VARIANT is cast in Snowflake."""
    quoted = _scanned(source, options.file_format)
    types = pa.types
    nested = types.is_nested(source.type)
    number = types.is_integer(source.type) or types.is_floating(source.type) or types.is_decimal(source.type)
    if nested and not options.file_format.vectorized:
        quoted = f"CAST({_older_json(source.type, quoted, 0)} AS JSON)"
    elif nested:
        quoted = f"to_json({quoted})"
    if column.declared == "ARRAY" and not types.is_list(source.type):
        quoted = f"CASE WHEN {quoted} IS NOT NULL THEN to_json([{quoted}]) END"
    elif column.type == "JSON" and not nested:
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
    if refused:
        # As bytes, any text would do for DuckDB but one with such an end.
        words = _REFUSED + ("\\x" if column.type == "BLOB" else "")
        return f"CAST(CAST({quoted} AS VARCHAR) || '{words}' AS {column.type})"
    if options.truncate and column.length is not None and types.is_string(source.type):
        quoted = f"LEFT({quoted}, {column.length})"
    elif types.is_floating(source.type) and column.type == "VARCHAR":
        quoted = f"format('{{:.10g}}', {quoted})"
    elif types.is_string(source.type) and column.type == "BLOB":
        quoted = f"unhex({quoted})"
    elif column.type.startswith("TIME"):
        is_instant = types.is_timestamp(source.type) and (
            source.type.tz is not None or (source.metadata == _INT96 and options.file_format.vectorized)
        )
        quoted = _time(quoted, source.type, column, is_instant=is_instant)
    return f"CAST({quoted} AS {column.type})"


def _time(quoted: str, source: pa.DataType, column: _Column, *, is_instant: bool) -> str:
    """A time or timestamp with the digits of a second that its column keeps; the others are cut off."""
    is_seconds = column.type != "TIME" and (pa.types.is_integer(source) or pa.types.is_decimal(source))
    is_time = pa.types.is_temporal(source) or pa.types.is_string(source)
    is_time = is_time and not (column.type == "TIME" and pa.types.is_date(source))
    if is_seconds:
        make = "make_timestamptz" if "TIME ZONE" in column.type else "make_timestamp"
        quoted = f"{make}(CAST(CAST({quoted} AS DOUBLE) * 1000000 AS BIGINT))"
    elif is_instant and column.type == "TIME":
        quoted = f"CAST({quoted} AS TIMESTAMP)"
    if column.fraction_digits == _MICROSECONDS or not (is_seconds or is_time):
        return quoted
    step = 10 ** (_MICROSECONDS - column.fraction_digits)
    cast = f"CAST({quoted} AS {column.type})"
    # The remainder of a negative number is negative.
    return f"{cast} - to_microseconds((epoch_us({cast}) % {step} + {step}) % {step})"


def _scanned(source: pa.Field, file_format: _Format) -> str:
    """The expression for a file's column as the scanner gives it."""
    scanned: str = '"' + source.name.replace('"', '""') + '"'
    types = pa.types
    if source.metadata == _INT96 and file_format.vectorized:
        # An instant; without the vectorized scanner it is the time that clocks of UTC show.
        scanned = f"({scanned} AT TIME ZONE 'UTC')"
    if types.is_binary(source.type) and file_format.binary_as_text:
        scanned = f"decode({scanned})"
    if types.is_nested(source.type):
        return scanned
    if file_format.trim_space and (types.is_string(source.type) or types.is_binary(source.type)):
        scanned = f"TRIM({scanned}, {_WHITE_SPACE})"
    if file_format.null_if and not (types.is_binary(source.type) and not file_format.binary_as_text):
        nulls = ", ".join(map(literal, file_format.null_if))
        scanned = f"CASE WHEN CAST({scanned} AS VARCHAR) IN ({nulls}) THEN NULL ELSE {scanned} END"
    return scanned


def _older_json(kind: pa.DataType, value: str, depth: int) -> str:
    """
    The expression for a value's JSON as the scanner before the vectorized one shows it, as text.

    NULLs are left out, and a map is a list of its entries.
    """
    each = f"e{depth}"
    if isinstance(kind, pa.MapType):
        entry = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        entries = _older_json(pa.list_(entry), f"map_entries({value})", depth)
        return f"'{{\"key_value\":' || {entries} || '}}'"
    if isinstance(kind, pa.ListType):
        item = _older_json(kind.value_type, each, depth + 1)
        kept = f"list_filter({value}, lambda {each}: {each} IS NOT NULL)"
        return f"'[' || array_to_string(list_transform({kept}, lambda {each}: {item}), ',') || ']'"
    if isinstance(kind, pa.StructType):
        parts = []
        for part in kind:
            name = literal(part.name)
            inner = f"struct_extract({value}, {name})"
            pair = f"CAST(to_json({name}) AS VARCHAR) || ':' || {_older_json(part.type, inner, depth)}"
            parts.append(f"CASE WHEN {inner} IS NOT NULL THEN {pair} END")
        kept = f"list_filter([{', '.join(parts)}], lambda {each}: {each} IS NOT NULL)"
        # A struct that is NULL has parts that are, and must not become an empty one.
        return f"CASE WHEN {value} IS NOT NULL THEN '{{' || array_to_string({kept}, ',') || '}}' END"
    return f"CAST(to_json({value}) AS VARCHAR)"


def _explain(
    session: Session,
    target: str,
    columns: list[_Column],
    file: StagedFile,
    values: dict[_Column, str],
    url: str,
    error: duckdb.Error,
) -> SqlError:
    """Find the file's first value that the table does not take: DuckDB names neither the column nor the row."""
    reader = f"read_parquet({literal(url)}, file_row_number = true)"
    # Another connection: the failed transaction answers nothing any more.
    with session.account.duck_conn.cursor() as connection:
        session.use_time_zone(connection)
        for column in columns:
            value = values[column]
            source = value.removeprefix("CAST(").rsplit(" AS ", 1)[0] if value.startswith("CAST(") else value
            if value.startswith("CAST("):
                bad = f"{source} IS NOT NULL AND TRY_{value} IS NULL"
                if column.length is not None:
                    bad = f"({bad}) OR LENGTH({value}) > {column.length}"
            else:
                bad = f"{value} IS NULL" if not column.nullable else "false"
            condition = bad if column.nullable else f"({bad}) OR ({source} IS NULL)"
            query = f"SELECT {source}, file_row_number + 1 FROM {reader} WHERE {condition} ORDER BY 2 LIMIT 1"
            try:
                row = connection.execute(query).fetchone()
            except duckdb.Error as failed:
                if "Invalid string encoding" in str(failed):
                    return _not_utf8(session, target, column, file)
                # There is no cast at all between the two types: the first value that is there will do.
                query = f"SELECT {source}, file_row_number + 1 FROM {reader} WHERE {source} IS NOT NULL LIMIT 1"
                row = connection.execute(query).fetchone()
            if row:
                return _bad_value(target, column, file, row[0], row[1])
    reported = from_duckdb(error)
    where = f"\n  File '{file.key}'\n{_CONTINUE_HINT}"
    return SqlError(int(reported.errno or 0), str(reported.sqlstate), f"{reported.msg}{where}")


def _not_utf8(session: Session, target: str, column: _Column, file: StagedFile) -> SqlError:
    """The words for a text that is not UTF-8, which DuckDB cannot even show."""
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
    table = outer(target.rsplit(".", 1)[-1].strip('"'))
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
