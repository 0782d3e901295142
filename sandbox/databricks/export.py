"""
Executes a Databricks SQL file on the sandbox's lake, with DuckDB.

Understood: ``INSERT OVERWRITE DIRECTORY ... USING PARQUET SELECT ...``, several in a file. A query may read Delta
tables by their Unity Catalog name, also as ``IDENTIFIER(...)``, and directories of Parquet files as ``parquet.`path```,
with the hidden column ``_metadata`` of their files. ``TYPEOF`` answers in Spark's words, also for ``STRUCT(*)``, and
``JSON_OBJECT_KEYS(TO_JSON(STRUCT(*), MAP('ignoreNullFields', 'false')))`` with the names of the columns.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import s3fs
import sqlglot
from deltalake import DeltaTable
from deltalake.exceptions import DeltaProtocolError, TableNotFoundError
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from sandbox.databricks.parquet import (
    METADATA_COLUMNS,
    UnsupportedTypeError,
    open_directory,
    overwrite_directory,
    spark_struct,
    spark_type,
)
from sandbox.sources import LAKE_BUCKET, SHARE_BUCKET, storage_options, table_uri

ROWS_PER_BATCH = 131_072

_EXTERNAL_LOCATIONS = (f"s3://{SHARE_BUCKET}/", f"s3://{LAKE_BUCKET}/")
_METADATA = "_metadata"
# What is NULL in no row, as Spark sees it without looking at the rows. Parameters are strings.
_NEVER_NULL = (exp.Count, exp.CurrentTimestamp, exp.Literal, exp.Placeholder)
_PARQUET_DIRECTORY = re.compile(r"parquet\.`([^`]*)`", re.IGNORECASE)


class StatementError(Exception):
    """A statement failed. The message is what Databricks would say."""


class InterruptedStatementError(Exception):
    """A statement was stopped by :meth:`Session.interrupt`."""


class Session:
    """
    Executes the statements of one task run. Not to be used after :meth:`close`.

    :param s3_endpoint_url: the stand-in of S3.
    :param filesystem: a file system on it, which sessions may share: making one takes as long as a small export.
    """

    def __init__(self, s3_endpoint_url: str, filesystem: s3fs.S3FileSystem) -> None:
        self._endpoint_url = s3_endpoint_url
        self._filesystem = filesystem
        self._interrupted = threading.Event()
        self._connection = duckdb.connect(config={"threads": 2})
        # A statement may read what is registered here and nothing else: no local file, no variable of this process.
        self._connection.execute("SET python_enable_replacements = false")
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute("SET enable_external_access = false")
        self._views = 0

    def execute(self, sql: str, parameters: Mapping[str, str]) -> None:
        """
        Execute all statements of a SQL text, one after the other.

        :param sql: statements, separated by ``;``.
        :param parameters: values of the named parameter markers, without the colon. They are bound as strings.
        :raises StatementError: a statement is wrong, or it failed. Statements after it were not executed.
        :raises InterruptedStatementError: somebody called :meth:`interrupt`.
        """
        try:
            for directory, query in _directory_inserts(sql):
                self._insert_overwrite_directory(directory, query, parameters)
        except SqlglotError as error:
            raise StatementError(f"[PARSE_SYNTAX_ERROR] {error} SQLSTATE: 42601") from error
        except UnsupportedTypeError as error:
            raise StatementError(str(error)) from error
        except (
            duckdb.Error,
            OSError,
            pa.ArrowException,
        ) as error:  # OSError: what a query says while its rows are read
            if self._interrupted.is_set():
                raise InterruptedStatementError from error
            raise StatementError(f"[INTERNAL_ERROR] {error} SQLSTATE: XX000") from error

    def interrupt(self) -> None:
        """Make :meth:`execute`, which runs in another thread, end soon."""
        self._interrupted.set()
        self._connection.interrupt()

    def close(self) -> None:
        """Release the memory of the engine."""
        self._connection.close()

    def _insert_overwrite_directory(self, directory: exp.Expr, query: exp.Expr, parameters: Mapping[str, str]) -> None:
        self._stop_if_interrupted()
        location = _writable_location(_constant(directory, parameters))
        translated = self._translate(query, parameters)
        relation = self._connection.sql(translated.sql("duckdb"), params=_used(translated, parameters))
        reader = relation.to_arrow_reader(ROWS_PER_BATCH)
        overwrite_directory(self._filesystem, location, reader, self._stop_if_interrupted, _never_null(query))

    def _translate(self, query: exp.Expr, parameters: Mapping[str, str]) -> exp.Expr:
        """The query for DuckDB, its tables registered."""
        query = query.copy()
        defined_here = {cte.alias_or_name.lower() for cte in query.find_all(exp.CTE)}
        asks_for_metadata = any(_is_metadata(column) for column in query.find_all(exp.Column))
        for table in list(query.find_all(exp.Table)):
            if not table.db and table.name.lower() in defined_here:
                continue
            view, name, has_metadata = self._register(table, parameters, asks_for_metadata)
            alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(name, quoted=True))
            if has_metadata:
                _hide_metadata(table.find_ancestor(exp.Select), alias.name)
            table.replace(exp.Table(this=exp.to_identifier(view), alias=alias, joins=table.args.get("joins")))
        for keys in list(query.find_all(exp.JSONKeys)):
            names = [exp.Literal.string(name) for name in self._keys_of(keys, parameters)]
            keys.replace(exp.Array(expressions=names))
        # From the inside out: the type of an outer one is asked when the inner ones have their answer.
        for typeof in reversed(list(query.find_all(exp.Typeof))):
            typeof.replace(exp.Literal.string(self._type_of(typeof, parameters)))
        return query

    def _register(
        self, table: exp.Table, parameters: Mapping[str, str], asks_for_metadata: bool
    ) -> tuple[str, str, bool]:
        """
        Make what a query names readable.

        Returns the view, the name that columns may be qualified with, and whether the view has a metadata column.
        """
        if isinstance(table.this, exp.Anonymous) and table.this.name.upper() == "IDENTIFIER":
            written = _constant(table.this.expressions[0], parameters)
        elif table.db.lower() == "parquet":
            written = f"parquet.`{table.name}`"
        else:
            written = ".".join(part.name for part in table.parts)

        view = f"source_{self._views}"
        self._views += 1
        if not (match := _PARQUET_DIRECTORY.fullmatch(written)):
            self._connection.register(view, self._delta_dataset(written))
            return view, written.rpartition(".")[2], False
        dataset = self._parquet_dataset(match[1])
        # A column of the data wins over the hidden one of the same name.
        has_metadata = asks_for_metadata and _METADATA not in map(str.lower, dataset.schema.names)
        self._connection.register(f"{view}_files", dataset)
        columns = [f"* EXCLUDE ({', '.join(map(_quoted, METADATA_COLUMNS.values()))})"]
        if has_metadata:
            fields = (f"{field} := {_quoted(column)}" for field, column in METADATA_COLUMNS.items())
            columns.append(f"struct_pack({', '.join(fields)}) AS {_METADATA}")
        self._connection.execute(f"CREATE TEMP VIEW {view} AS SELECT {', '.join(columns)} FROM {view}_files")
        return view, "parquet", has_metadata

    def _type_of(self, typeof: exp.Typeof, parameters: Mapping[str, str]) -> str:
        """What TYPEOF says."""
        fields = self._fields_of(typeof.this, typeof.find_ancestor(exp.Select), parameters)
        try:
            return spark_struct(fields) if isinstance(typeof.this, exp.Struct) else spark_type(fields[0][1])
        except ValueError as error:
            raise StatementError(f"[UNSUPPORTED_DATATYPE] {error}. SQLSTATE: 0A000") from error

    def _keys_of(self, keys: exp.JSONKeys, parameters: Mapping[str, str]) -> list[str]:
        """What JSON_OBJECT_KEYS says of a struct whose NULLs are kept: the names of its fields, whatever the row is."""
        made = keys.this
        options = made.args.get("options") if isinstance(made, exp.JSONFormat) else None
        kept = exp.VarMap(
            keys=exp.array(exp.Literal.string("ignoreNullFields")), values=exp.array(exp.Literal.string("false"))
        )
        if options != kept or not isinstance(made.this, exp.Struct):
            raise StatementError(
                "[UNSUPPORTED_FEATURE] The sandbox knows JSON_OBJECT_KEYS only of TO_JSON(STRUCT(...), "
                "MAP('ignoreNullFields', 'false')). SQLSTATE: 0A000"
            )
        return [name for name, _ in self._fields_of(made.this, keys.find_ancestor(exp.Select), parameters)]

    def _fields_of(
        self, argument: exp.Expr, select: exp.Select | None, parameters: Mapping[str, str]
    ) -> list[tuple[str, Any]]:
        """Names and types of a struct's fields, or of one expression: it is asked of the same tables, for no rows."""
        # STRUCT(*) is asked column by column: DuckDB has no such function.
        parts = argument.expressions if isinstance(argument, exp.Struct) else [argument]
        probe = exp.Select(expressions=[_struct_field(part, number) for number, part in enumerate(parts, start=1)])
        for clause in ("from_", "joins", "laterals"):
            if select is not None and (present := select.args.get(clause)):
                probe.set(clause, [part.copy() for part in present] if isinstance(present, list) else present.copy())
        visible: dict[str, exp.Expr] = {}
        scope: exp.Expr | None = select
        while scope is not None:  # the nearest definition of a name wins
            for cte in scope.args["with_"].expressions if scope.args.get("with_") else ():
                visible.setdefault(cte.alias_or_name.lower(), cte.copy())
            scope = scope.parent
        if visible:
            probe.set("with_", exp.With(expressions=list(visible.values())))
        probe = probe.limit(0)
        self._connection.execute(probe.sql("duckdb"), _used(probe, parameters))
        return [(name, engine_type) for name, engine_type, *_ in self._connection.description]

    def _delta_dataset(self, name: str) -> pyarrow.dataset.Dataset:
        parts = [part.strip().strip("`") for part in name.split(".")]
        if not all(parts):
            raise StatementError(f"[PARSE_SYNTAX_ERROR] Syntax error at or near '{name}'. SQLSTATE: 42601")
        try:
            table = DeltaTable(table_uri(".".join(parts)), storage_options=storage_options(self._endpoint_url))
        except (ValueError, TableNotFoundError) as error:
            quoted = ".".join(f"`{part}`" for part in parts)
            raise StatementError(
                f"[TABLE_OR_VIEW_NOT_FOUND] The table or view {quoted} cannot be found. Verify the spelling and "
                "correctness of the schema and catalog.\n"
                "If you did not qualify the name with a schema, verify the current_schema() output, or qualify the "
                "name with the correct schema and catalog.\n"
                "To tolerate the error on drop use DROP VIEW IF EXISTS or DROP TABLE IF EXISTS. SQLSTATE: 42P01"
            ) from error
        try:
            return table.to_pyarrow_dataset()
        except (ValueError, DeltaProtocolError) as error:
            raise StatementError(f"[INTERNAL_ERROR] The sandbox cannot read {name}: {error} SQLSTATE: XX000") from error

    def _parquet_dataset(self, path: str) -> pyarrow.dataset.Dataset:
        if not path.startswith(_EXTERNAL_LOCATIONS):
            raise _no_external_location(path)
        try:
            return open_directory(self._filesystem, path)
        except FileNotFoundError as error:
            raise StatementError(f"[PATH_NOT_FOUND] Path does not exist: {path}. SQLSTATE: 42K03") from error

    def _stop_if_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise InterruptedStatementError


def _directory_inserts(sql: str) -> Iterator[tuple[exp.Expr, exp.Expr]]:
    """
    The directory and the query of each statement.

    sqlglot knows INSERT OVERWRITE DIRECTORY only with a literal path and in Hive's form. So its head is read from the
    tokens here, and sqlglot parses the directory and the query.
    """
    statement: list[Token] = []
    for token in [*sqlglot.tokenize(sql, read="databricks"), None]:
        if token is not None and token.token_type != TokenType.SEMICOLON:
            statement.append(token)
        elif statement:
            yield _directory_insert(sql, statement)
            statement = []


def _directory_insert(sql: str, tokens: list[Token]) -> tuple[exp.Expr, exp.Expr]:
    words = [token.text.upper() for token in tokens]
    if words[:3] != ["INSERT", "OVERWRITE", "DIRECTORY"] or "USING" not in words[:8]:
        raise StatementError(
            f"[PARSE_SYNTAX_ERROR] Syntax error at or near '{words[0]}': the sandbox executes only "
            "INSERT OVERWRITE DIRECTORY ... USING PARQUET SELECT. SQLSTATE: 42601"
        )
    using = words.index("USING")
    if words[using + 1 : using + 2] != ["PARQUET"]:
        found = tokens[using + 1].text if len(tokens) > using + 1 else "end of input"
        raise StatementError(f"[DATA_SOURCE_NOT_FOUND] Failed to find the data source: {found}. SQLSTATE: 42K02")
    if len(tokens) < using + 3:
        raise StatementError("[PARSE_SYNTAX_ERROR] Syntax error at or near end of input. SQLSTATE: 42601")
    directory = sql[tokens[3].start : tokens[using].start]
    query = sql[tokens[using + 2].start : tokens[-1].end + 1]
    return (
        sqlglot.parse_one(directory, read="databricks"),
        sqlglot.parse_one(query, read="databricks"),
    )


def _constant(expression: exp.Expr, parameters: Mapping[str, str]) -> str:
    """The value of an expression of literals, parameter markers and concatenation: all that may name a thing."""
    if isinstance(expression, exp.Literal) and expression.is_string:
        return str(expression.this)
    if isinstance(expression, exp.Placeholder):
        return _value_of(expression, parameters)
    if isinstance(expression, exp.Paren):
        return _constant(expression.this, parameters)
    if isinstance(expression, exp.DPipe):
        return _constant(expression.left, parameters) + _constant(expression.right, parameters)
    if isinstance(expression, exp.Concat):
        return "".join(_constant(part, parameters) for part in expression.expressions)
    raise StatementError(
        f"[NOT_A_CONSTANT_STRING.NOT_CONSTANT] The expression {expression.sql('databricks')} used for the routine or "
        "clause IDENTIFIER must be a constant STRING which is NOT NULL. To be considered constant, the expression must "
        "not depend on any columns, contain a subquery, or invoke a non deterministic function. SQLSTATE: 42601"
    )


def _quoted(name: str) -> str:
    return f'"{name}"'


def _is_metadata(column: exp.Column) -> bool:
    return _METADATA in (column.name.lower(), column.table.lower())


def _hide_metadata(select: exp.Select | None, table: str) -> None:
    """Keep the metadata column of a table out of every ``*``: it is there only for those who name it."""
    for star in select.find_all(exp.Star) if select is not None else ():
        if star.find_ancestor(exp.Select) is not select or isinstance(star.parent, exp.Count):
            continue
        if isinstance(star.parent, exp.Column) and star.parent.table.lower() != table.lower():
            continue
        excepted = star.args.get("except_") or []
        if _METADATA not in [column.name for column in excepted]:  # by another table of the same query
            star.set("except_", [*excepted, exp.column(_METADATA)])


def _struct_field(part: exp.Expr, number: int) -> exp.Expr:
    """An argument of STRUCT as a column, with the name that Spark gives to it."""
    if part.is_star:
        return part.copy()
    if isinstance(part, exp.PropertyEQ):
        return exp.alias_(part.expression.copy(), part.name, quoted=True)
    return exp.alias_(part.copy(), f"col{number}", quoted=True)


def _never_null(query: exp.Expr) -> set[str]:
    """The columns of a query that Spark writes as required ones."""
    if not isinstance(query, exp.Select):
        return set()
    return {column.alias_or_name for column in query.selects if _is_never_null(column.unalias())}


def _is_never_null(column: exp.Expr) -> bool:
    if isinstance(column, exp.Subquery) and isinstance(column.this, exp.Select):
        # JSON that is made of names and types alone is a constant for Spark.
        return isinstance(column.this.selects[0], exp.JSONFormat)
    return isinstance(column, _NEVER_NULL)


def _used(query: exp.Expr, parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters that a query binds: DuckDB takes no others."""
    return {marker.name: _value_of(marker, parameters) for marker in query.find_all(exp.Placeholder)}


def _value_of(marker: exp.Placeholder, parameters: Mapping[str, str]) -> str:
    if marker.name not in parameters:
        raise StatementError(
            f"[UNBOUND_SQL_PARAMETER] Found the unbound parameter: {marker.name or '_'}. Please, fix `args` and "
            "provide a mapping of the parameter to either a SQL literal or collection constructor functions such as "
            "`map()`, `array()`, `struct()`. SQLSTATE: 42P02"
        )
    return parameters[marker.name]


def _writable_location(path: str) -> str:
    """A directory as it was written, with one slash at its end."""
    if not path:
        raise StatementError(
            "[INVALID_EMPTY_LOCATION] The location name cannot be empty string, but `` was given. SQLSTATE: 42K05"
        )
    location = path.rstrip("/") + "/"
    steps = location.removeprefix("s3://").rstrip("/").split("/")
    # Not the bucket itself, and no way around the check.
    if not location.startswith(_EXTERNAL_LOCATIONS) or len(steps) < 2 or not {"", ".", ".."}.isdisjoint(steps):
        raise _no_external_location(path)
    return location


def _no_external_location(path: str) -> StatementError:
    return StatementError(
        "[UNAUTHORIZED_ACCESS] Unauthorized access: PERMISSION_DENIED: No parent external location found for path "
        f"'{path}'. SQLSTATE: 42501"
    )


def resolve_references(template: str, job_parameters: Mapping[str, Any]) -> str:
    """Replace ``{{job.parameters.NAME}}`` in a task parameter by its value. An unknown reference stays as it is."""

    def value(match: re.Match[str]) -> str:
        return str(job_parameters.get(match[1], match[0]))

    return re.sub(r"\{\{\s*job\.parameters\.([A-Za-z0-9_.-]+?)\s*\}\}", value, template)
