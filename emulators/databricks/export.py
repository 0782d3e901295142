"""
Executes a Databricks SQL file on the sandbox's lake, with DuckDB.

Statements: queries, ``INSERT OVERWRITE DIRECTORY ... USING PARQUET SELECT ...``, ``DECLARE OR REPLACE VARIABLE``,
``SET VAR``, and ``EXECUTE IMMEDIATE`` of an ``INSERT OVERWRITE DIRECTORY`` or of a query, mostly with ``INTO``. A file
may contain several statements. Only syntax that runtime 14.3 supports is accepted.

Queries may read what ``lake.py`` knows, by its Unity Catalog name or through ``IDENTIFIER(...)``: tables, also
``VERSION AS OF`` a literal, the history of one as ``(DESCRIBE HISTORY ...)``, its changes as ``TABLE_CHANGES(...)``,
views and information schemas; and directories of Parquet files as ``parquet.`path```, with the hidden column
``_metadata`` of the files.

``TYPEOF`` returns Spark's names of types, also for ``STRUCT(*)``. ``JSON_OBJECT_KEYS(TO_JSON(STRUCT(*),
MAP('ignoreNullFields', 'false')))`` returns the names of the columns. Functions of Spark that DuckDB lacks are in
``emulators/databricks/functions.py``.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.dataset
import s3fs
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from emulators.databricks.errors import InterruptedStatementError, StatementError, syntax_error
from emulators.databricks.functions import (
    MACROS,
    USER_RAISED_EXCEPTION,
    SecretError,
    Secrets,
    as_duckdb,
    with_secrets,
)
from emulators.databricks.lake import Lake, View
from emulators.databricks.parquet import (
    METADATA_COLUMNS,
    UnsupportedTypeError,
    open_directory,
    overwrite_directory,
    spark_struct,
    spark_type,
)
from emulators.databricks.records import SqlOutput
from emulators.databricks.sql_text import (
    directory_insert,
    is_history,
    parsed,
    statements_of,
    version_of,
    written_name,
)
from emulators.databricks.unity_catalog import LAKE_BUCKET
from emulators.share_names import buckets

ROWS_PER_BATCH = 131_072

# Databricks keeps so much of a result
# (https://docs.databricks.com/aws/en/jobs/dynamic-value-references).
MAX_OUTPUT_ROWS = 1000
MAX_OUTPUT_BYTES = 48 * 1024

_METADATA = "_metadata"
# Expressions that Spark knows to be never NULL without reading rows. Parameters are strings, so they are never NULL.
_NEVER_NULL = (exp.Count, exp.CurrentTimestamp, exp.Literal, exp.Placeholder)
# Matches `_metadata`, with one more leading underscore for each column of the data that already has the name.
_ANY_METADATA = re.compile(r"_+metadata", re.IGNORECASE)
_QUERY_WORDS = ("SELECT", "WITH", "VALUES", "(")
_PARQUET_DIRECTORY = re.compile(r"parquet\.`([^`]*)`", re.IGNORECASE)


def _external_locations() -> tuple[str, ...]:
    return tuple(f"s3://{bucket}/" for bucket in (*buckets(), LAKE_BUCKET))


class _Assignment(NamedTuple):
    """A SET VAR as a statement of DuckDB, and the markers in it."""

    sql: str
    markers: tuple[exp.Placeholder, ...]


# By text, and names and types of all variables. Every run of a job sets the same variables to the same expressions, and
# their translation takes ten times as long as their execution. What names a table is not here: its columns may change.
_assignments: dict[tuple[str, frozenset[tuple[str, str]]], _Assignment] = {}
_MOST_ASSIGNMENTS = 10_000


class Session:
    """
    Executes the statements of one task's run. It must not be used after :meth:`close`.

    :param s3_endpoint_url: the emulator of S3.
    :param filesystem: a file system on the emulator. Sessions should share it: creating it takes as long as a small
        export.
    :param secrets: the secrets that the principal of the statements may read.
    """

    def __init__(self, s3_endpoint_url: str, filesystem: s3fs.S3FileSystem, secrets: Secrets | None = None) -> None:
        self._secrets = secrets or {}
        self._filesystem = filesystem
        self._lake = Lake(s3_endpoint_url, filesystem)
        self._interrupted = threading.Event()
        self._connection = duckdb.connect(config={"threads": 2})
        # A statement may only read what is registered here: no local files, no variables of this process.
        self._connection.execute("SET python_enable_replacements = false")
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lambda_syntax = 'ENABLE_SINGLE_ARROW'")  # the syntax that sqlglot writes
        for macro in MACROS:
            self._connection.execute(macro)
        self._views = 0
        self.output: SqlOutput | None = None
        # Variable -> DuckDB's name of its type. DuckDB stores the values.
        self._variables: dict[str, str] = {}

    def execute(self, sql: str, parameters: Mapping[str, str]) -> dict[str, str | None] | None:
        """
        Execute all statements of a SQL text, one after the other.

        Return the first row of the last statement's result as texts, by the names of the columns; None if that
        statement is no query, or returned no row. The result is kept as :attr:`output`.

        :param sql: statements, separated by ``;``.
        :param parameters: values of the named parameter markers, without the colon. They are bound as strings.
        :raises StatementError: if a statement is invalid or failed. The statements after it were not executed.
        :raises InterruptedStatementError: if :meth:`interrupt` was called.
        """
        result = None
        with self._as_statement_errors():
            for statement in statements_of(sql):
                self._stop_if_interrupted()
                result = self._run(statement, parameters)
            self.output = None if result is None else self._output(result)
        return self.output.first_row if self.output else None

    def table(self, sql: str) -> pa.Table:
        """
        Execute one query and return its rows.

        :raises StatementError: if the query is invalid or failed.
        """
        with self._as_statement_errors():
            translated = self._translate(parsed(sql), {})
            return self._connection.sql(translated.sql("duckdb")).to_arrow_table()

    @contextlib.contextmanager
    def _as_statement_errors(self) -> Iterator[None]:
        try:
            yield
        except SqlglotError as error:
            raise StatementError(f"[PARSE_SYNTAX_ERROR] {error} SQLSTATE: 42601") from error
        except (UnsupportedTypeError, SecretError) as error:
            raise StatementError(str(error)) from error
        except (
            duckdb.Error,
            OSError,
            pa.ArrowException,
        ) as error:  # OSError: raised while a query's rows are read
            if self._interrupted.is_set():
                raise InterruptedStatementError from error
            if raised := USER_RAISED_EXCEPTION.search(str(error)):
                raise StatementError(raised[0]) from error
            raise StatementError(f"[INTERNAL_ERROR] {error} SQLSTATE: XX000") from error

    def interrupt(self) -> None:
        """Interrupt :meth:`execute`, which runs in another thread."""
        self._interrupted.set()
        self._connection.interrupt()

    def close(self) -> None:
        """Release the memory of the engine."""
        self._connection.close()

    def _run(self, sql: str, parameters: Mapping[str, str]) -> str | None:
        """Execute a statement. Return the table with its result, if it is a query."""
        words = sql.upper().split(None, 4)
        if words[0].startswith(_QUERY_WORDS):
            return self._query(self._translate(parsed(sql), parameters), parameters)
        if words[:3] == ["INSERT", "OVERWRITE", "DIRECTORY"]:
            directory, query = directory_insert(sql)
            self._insert_overwrite_directory(directory, parsed(query), parameters)
        elif words[:4] == ["DECLARE", "OR", "REPLACE", "VARIABLE"]:
            self._declare(parsed(sql))
        elif words[:2] in (["SET", "VAR"], ["SET", "VARIABLE"]):
            self._set(sql, parameters)
        elif words[:2] == ["EXECUTE", "IMMEDIATE"]:
            return self._execute_immediate(sql)
        else:
            raise syntax_error(
                words[0],
                "the sandbox executes only queries, INSERT OVERWRITE DIRECTORY ... USING PARQUET SELECT, DECLARE OR "
                "REPLACE VARIABLE, SET VAR and EXECUTE IMMEDIATE",
            )
        return None

    def _query(self, translated: exp.Expr, parameters: Mapping[str, str]) -> str:
        """Execute a query, and return the table with its result."""
        table = f"answer_{self._views}"
        self._views += 1
        self._connection.execute(
            f"CREATE TEMP TABLE {table} AS {translated.sql('duckdb')}", _used(translated, parameters)
        )
        return table

    def _output(self, table: str) -> SqlOutput:
        """Return what Databricks keeps of a result: its first rows."""
        self._connection.execute(f"SELECT CAST(COLUMNS(*) AS VARCHAR) FROM {table} LIMIT {MAX_OUTPUT_ROWS + 1}")
        columns = [name for name, *_ in self._connection.description]
        rows: list[list[str | None]] = []
        left = MAX_OUTPUT_BYTES
        truncated = False
        for row in self._connection.fetchall():
            left -= len(json.dumps(row).encode())
            truncated = truncated or left < 0 or len(rows) == MAX_OUTPUT_ROWS
            if not truncated:
                rows.append(list(row))
        return SqlOutput(columns, rows, truncated)

    def _insert_overwrite_directory(self, directory: str, query: exp.Expr, parameters: Mapping[str, str]) -> None:
        location = _writable_location(directory)
        never_null = self._never_null(query)
        translated = self._translate(query, parameters)
        relation = self._connection.sql(translated.sql("duckdb"), params=_used(translated, parameters))
        reader = relation.to_arrow_reader(ROWS_PER_BATCH)
        overwrite_directory(self._filesystem, location, reader, self._stop_if_interrupted, never_null)

    def _declare(self, statement: exp.Expr) -> None:
        items = statement.expressions if isinstance(statement, exp.Declare) else []
        if len(items) != 1 or not items[0].args.get("kind") or items[0].args.get("default"):
            raise syntax_error("DECLARE", "the sandbox declares one variable of a type, without a default")
        name = items[0].this[0].name.lower()
        self._variables[name] = items[0].args["kind"].sql("duckdb")
        self._connection.execute(f"SET VARIABLE {_quoted(name)} = NULL")

    def _set(self, sql: str, parameters: Mapping[str, str]) -> None:
        variables = frozenset(self._variables.items())
        if (known := _assignments.get((sql, variables))) is None:
            [item] = parsed(sql).expressions
            value = exp.Select(expressions=[item.this.expression.copy()])
            name, is_constant = item.this.this.name, value.find(exp.Table, exp.Secret) is None
            row = self._row_of([name], self._translate(value, parameters))
            known = _Assignment(self._assigned(name, f"({row.sql('duckdb')})"), tuple(row.find_all(exp.Placeholder)))
            if is_constant:
                if len(_assignments) >= _MOST_ASSIGNMENTS:
                    _assignments.clear()
                _assignments[sql, variables] = known
        self._connection.execute(known.sql, _values_of(known.markers, parameters))

    def _execute_immediate(self, sql: str) -> str | None:
        match = re.fullmatch(
            r"EXECUTE\s+IMMEDIATE\s+(\w+)(?:\s+INTO\s+(\w+(?:\s*,\s*\w+)*))?(?:\s+USING\s+(.*))?", sql, re.I | re.S
        )
        if match is None:
            raise syntax_error("EXECUTE", "the sandbox executes a variable INTO variables, USING what has a name")
        text = self._value(match[1])
        if not isinstance(text, str):
            raise StatementError(
                f"[NULL_QUERY_STRING_EXECUTE_IMMEDIATE] Execute immediate requires a non-null variable as the query "
                f"string, but the provided variable `{match[1]}` is null. SQLSTATE: 22004"
            )
        statement, *others = statements_of(text)
        if others:
            raise syntax_error(";", "EXECUTE IMMEDIATE executes one statement")
        into = re.split(r"\s*,\s*", match[2]) if match[2] else []
        arguments = sqlglot.parse_one(f"SELECT {match[3]}", read="databricks").expressions if match[3] else []
        words = statement.upper().split(None, 3)
        if words[:3] == ["INSERT", "OVERWRITE", "DIRECTORY"] and not into:
            directory, query = directory_insert(statement)
            self._insert_overwrite_directory(directory, self._bound(query, arguments), {})
        elif words[0].startswith(_QUERY_WORDS):
            translated = self._translate(self._bound(statement, arguments), {})
            if into:
                self._assign(into, self._row_of(into, translated))
            else:
                return self._query(translated, {})
        elif into:
            raise StatementError(
                f"[INVALID_STATEMENT_FOR_EXECUTE_INTO] The INTO clause of EXECUTE IMMEDIATE is only valid for queries "
                f"but the given statement is not a query: {text}. SQLSTATE: 07501"
            )
        elif words[0] == "EXECUTE":
            raise StatementError(
                "[NESTED_EXECUTE_IMMEDIATE] Nested EXECUTE IMMEDIATE commands are not allowed. Please ensure that the "
                f"SQL query provided ({text}) does not contain another EXECUTE IMMEDIATE command. SQLSTATE: 07501"
            )
        else:
            raise syntax_error(words[0], "the sandbox executes INSERT OVERWRITE DIRECTORY, and queries")
        return None

    def _bound(self, sql: str, arguments: list[exp.Expr]) -> exp.Expr:
        """Parse a query, and replace its markers by the arguments of EXECUTE IMMEDIATE."""
        values: dict[str, exp.Expr] = {}
        for argument in arguments:
            value = argument.unalias()
            if isinstance(value, exp.Column) and value.name.lower() in self._variables:
                values[argument.alias or value.name] = self._variable(value.name)
            elif isinstance(value, exp.Literal):
                values[argument.alias] = value
            else:
                raise StatementError(
                    "[UNSUPPORTED_EXPR_FOR_PARAMETER] A query parameter contains unsupported expression. Parameters "
                    f"can either be variables or literals. Invalid expression: [{value.sql('databricks')}]. "
                    "SQLSTATE: 42K0E"
                )
        query = parsed(sql).copy()
        for marker in list(query.find_all(exp.Placeholder)):
            if marker.name in values:
                value = values[marker.name]
                # Insert the value: the marker names a table, whose name must be known before the query runs.
                if _names_a_table(marker) and "variable" in value.meta:
                    value = exp.Literal.string(self._value(value.meta["variable"]))
                marker.replace(value.copy())
        return query

    def _variable(self, name: str) -> exp.Expr:
        """Return the DuckDB expression that reads a variable."""
        value = exp.func("getvariable", exp.Literal.string(name.lower()))
        cast = exp.cast(value, exp.DataType.build(self._type_of_variable(name), dialect="duckdb"))
        cast.meta["variable"] = name
        return cast

    def _row_of(self, names: list[str], query: exp.Expr) -> exp.Expr:
        """Name the columns of a query after the variables that its row is for."""
        for name in names:
            self._type_of_variable(name)
        columns = query.selects if isinstance(query, exp.Select) else []
        if len(columns) != len(names):
            raise StatementError(
                f"[ASSIGNMENT_ARITY_MISMATCH] The number of columns or variables assigned or aliased: {len(names)} "
                f"does not match the number of source expressions: {len(columns)}. SQLSTATE: 42802"
            )
        query.set(
            "expressions", [exp.alias_(column.unalias(), name) for column, name in zip(columns, names, strict=True)]
        )
        return query

    def _assign(self, names: list[str], row: exp.Expr) -> None:
        """Set variables to the row that a query returns, whose columns have their names; to NULL if there is no row."""
        table = self._query(row, {})
        if len(self._connection.execute(f"FROM {table} LIMIT 2").fetchall()) > 1:
            raise StatementError(
                "[ROW_SUBQUERY_TOO_MANY_ROWS] More than one row returned by a subquery used as a row. SQLSTATE: 21000"
            )
        for name in names:
            self._connection.execute(self._assigned(name, table))
        self._connection.execute(f"DROP TABLE {table}")

    def _assigned(self, name: str, row: str) -> str:
        """Return the statement of DuckDB that sets a variable to the column of its name in a row, or in no row."""
        kind = self._type_of_variable(name)
        return f"SET VARIABLE {_quoted(name.lower())} = (SELECT CAST({_quoted(name)} AS {kind}) FROM {row})"

    def _type_of_variable(self, name: str) -> str:
        if name.lower() not in self._variables:
            raise StatementError(f"[UNRESOLVED_VARIABLE] Cannot resolve variable `{name}`. SQLSTATE: 42883")
        return self._variables[name.lower()]

    def _value(self, name: str) -> Any:
        self._type_of_variable(name)
        [(value,)] = self._connection.execute(f"SELECT getvariable({_literal(name.lower())})").fetchall()
        return value

    def _never_null(self, query: exp.Expr) -> set[str]:
        """Return the columns of a query that Spark writes to Parquet as required (not nullable)."""
        if not isinstance(query, exp.Select):
            return set()
        return {
            column.alias_or_name
            for column in query.selects
            if isinstance(column.unalias(), _NEVER_NULL)
            or ("variable" in column.unalias().meta and self._value(column.unalias().meta["variable"]) is not None)
        }

    def _translate(self, query: exp.Expr, parameters: Mapping[str, str]) -> exp.Expr:
        """Translate a query to DuckDB, and register its tables."""
        # Secrets first: DuckDB, which has none, is asked for the names and types of columns below.
        query = with_secrets(query.copy(), self._secrets, "INSERT")
        ctes = {cte.alias_or_name.lower() for cte in query.find_all(exp.CTE)}
        asks_for_metadata = any(_is_metadata(column) for column in query.find_all(exp.Column))
        for table in list(query.find_all(exp.Table)):
            if not table.db and table.name.lower() in ctes:
                continue
            view, name, metadata = self._register(table, parameters, asks_for_metadata)
            alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(name, quoted=True))
            if metadata:
                _hide_metadata(table.find_ancestor(exp.Select), alias.name, metadata)
            table.replace(exp.Table(this=exp.to_identifier(view), alias=alias, joins=table.args.get("joins")))
        for keys in list(query.find_all(exp.JSONKeys)):
            names = [exp.Literal.string(name) for name in self._keys_of(keys, parameters)]
            keys.replace(exp.Array(expressions=names))
        # Innermost TYPEOF first: the type of an outer TYPEOF's argument depends on the inner ones.
        for typeof in reversed(list(query.find_all(exp.Typeof))):
            typeof.replace(exp.Literal.string(self._type_of(typeof, parameters)))
        for column in list(query.find_all(exp.Column)):
            if _is_variable(column, self._variables):
                value = self._variable(column.name)
                is_selected = isinstance(column.parent, exp.Select) and column.arg_key == "expressions"
                column.replace(exp.alias_(value, column.name, quoted=True) if is_selected else value)
        return as_duckdb(query)

    def _new_view(self, rows: Any) -> str:
        """Register rows under a new name."""
        view = f"source_{self._views}"
        self._views += 1
        self._connection.register(view, rows)
        return view

    def _register(
        self, table: exp.Table, parameters: Mapping[str, str], asks_for_metadata: bool
    ) -> tuple[str, str, str]:
        """
        Register a table or directory that a query names, so that DuckDB can read it.

        :returns: the view, the name that may qualify its columns, and the name of its metadata column (empty without).
        """
        function = table.this.name.upper() if isinstance(table.this, exp.Anonymous) else ""
        if function == "TABLE_CHANGES":
            return self._new_view(self._changes(table.this.expressions, parameters)), "table_changes", ""
        if function == "IDENTIFIER":
            written = _constant(table.this.expressions[0], parameters)
        elif table.db.lower() == "parquet":
            written = f"parquet.`{table.name}`"
        else:
            written = written_name(table)

        if not (match := _PARQUET_DIRECTORY.fullmatch(written)):
            found = (
                self._lake.history(written)
                if is_history(table)
                else self._lake.read(written, version_of(table), self._equal(table, parameters))
            )
            view = self._view(found) if isinstance(found, View) else self._new_view(found)
            return view, written.rpartition(".")[2].strip("`"), ""
        if table.args.get("version"):
            raise syntax_error("VERSION", "the sandbox knows no versions of files")
        view = f"source_{self._views}"
        self._views += 1
        dataset = self._parquet_dataset(match[1])
        # A column of the data hides the metadata column of the same name, so choose a free name for the latter.
        metadata = _METADATA
        while metadata in map(str.lower, dataset.schema.names):
            metadata = f"_{metadata}"
        self._connection.register(f"{view}_files", dataset)
        columns = [f"* EXCLUDE ({', '.join(map(_quoted, METADATA_COLUMNS.values()))})"]
        if asks_for_metadata:
            fields = (f"{field} := {_quoted(column)}" for field, column in METADATA_COLUMNS.items())
            columns.append(f"struct_pack({', '.join(fields)}) AS {metadata}")
        self._connection.execute(f"CREATE TEMP VIEW {view} AS SELECT {', '.join(columns)} FROM {view}_files")
        return view, "parquet", metadata if asks_for_metadata else ""

    def _type_of(self, typeof: exp.Typeof, parameters: Mapping[str, str]) -> str:
        """Return the result of TYPEOF."""
        fields = self._fields_of(typeof.this, typeof.find_ancestor(exp.Select), parameters)
        try:
            return spark_struct(fields) if isinstance(typeof.this, exp.Struct) else spark_type(fields[0][1])
        except ValueError as error:
            raise StatementError(f"[UNSUPPORTED_DATATYPE] {error}. SQLSTATE: 0A000") from error

    def _keys_of(self, keys: exp.JSONKeys, parameters: Mapping[str, str]) -> list[str]:
        """Return the result of JSON_OBJECT_KEYS for a struct with its NULLs kept: the fields' names, in every row."""
        to_json = keys.this
        options = to_json.args.get("options") if isinstance(to_json, exp.JSONFormat) else None
        kept = exp.VarMap(
            keys=exp.array(exp.Literal.string("ignoreNullFields")), values=exp.array(exp.Literal.string("false"))
        )
        if options != kept or not isinstance(to_json.this, exp.Struct):
            raise StatementError(
                "[UNSUPPORTED_FEATURE] The sandbox knows JSON_OBJECT_KEYS only of TO_JSON(STRUCT(...), "
                "MAP('ignoreNullFields', 'false')). SQLSTATE: 0A000"
            )
        return [name for name, _ in self._fields_of(to_json.this, keys.find_ancestor(exp.Select), parameters)]

    def _fields_of(
        self, argument: exp.Expr, select: exp.Select | None, parameters: Mapping[str, str]
    ) -> list[tuple[str, Any]]:
        """Return names and types of a struct's fields, or of one expression, from a query with LIMIT 0."""
        # Query the fields as columns: DuckDB does not support STRUCT(*).
        parts = argument.expressions if isinstance(argument, exp.Struct) else [argument]
        probe = exp.Select(expressions=[_struct_field(part, number) for number, part in enumerate(parts, start=1)])
        for clause in ("from_", "joins", "laterals"):
            if select is not None and (present := select.args.get(clause)):
                probe.set(clause, [part.copy() for part in present] if isinstance(present, list) else present.copy())
        visible: dict[str, exp.Expr] = {}
        scope: exp.Expr | None = select
        while scope is not None:  # the innermost definition of a name applies
            for cte in scope.args["with_"].expressions if scope.args.get("with_") else ():
                visible.setdefault(cte.alias_or_name.lower(), cte.copy())
            scope = scope.parent
        if visible:
            probe.set("with_", exp.With(expressions=list(visible.values())))
        translated = as_duckdb(probe.limit(0))
        self._connection.execute(translated.sql("duckdb"), _used(translated, parameters))
        return [(name, engine_type) for name, engine_type, *_ in self._connection.description]

    def _changes(self, arguments: list[exp.Expr], parameters: Mapping[str, str]) -> pa.Table:
        """Return the result of TABLE_CHANGES."""
        if not 2 <= len(arguments) <= 3:
            raise StatementError(
                "[WRONG_NUM_ARGS.WITHOUT_SUGGESTION] The `table_changes` requires 2 or 3 parameters but the actual "
                f"number is {len(arguments)}. SQLSTATE: 42605"
            )
        name = _constant(arguments[0], parameters)
        return self._lake.changes(name, *(self._version(bound, parameters) for bound in arguments[1:]))

    def _version(self, bound: exp.Expr, parameters: Mapping[str, str]) -> int:
        """Return the version that an argument of TABLE_CHANGES is. Only whole numbers are versions."""
        if isinstance(bound, exp.Column) and bound.name.lower() in self._variables:
            bound = self._variable(bound.name)
        if any(bound.find_all(exp.Column, exp.Select)):
            raise StatementError(
                f"[UNRESOLVED_COLUMN.WITHOUT_SUGGESTION] A column, variable, or function parameter with name "
                f"{bound.sql('databricks')} cannot be resolved. SQLSTATE: 42703"
            )
        query = as_duckdb(exp.Select(expressions=[bound.copy(), exp.func("typeof", bound.copy())]))
        [(value, kind)] = self._connection.execute(query.sql("duckdb"), _used(query, parameters)).fetchall()
        if value is None:
            raise StatementError(
                "[DELTA_CDC_READ_NULL_RANGE_BOUNDARY] CDC read start/end parameters cannot be null. Please provide a "
                "valid version or timestamp. SQLSTATE: 22004"
            )
        if kind not in {"INTEGER", "BIGINT"}:  # a text is the time of a version
            raise StatementError(
                f"[DELTA_TIMESTAMP_INVALID] The provided timestamp ({bound.sql('databricks')}) cannot be converted to "
                "a valid timestamp: the sandbox knows only versions. SQLSTATE: 42816"
            )
        return int(value)

    def _equal(self, table: exp.Table, parameters: Mapping[str, str]) -> dict[str, str]:
        """Return the columns of a query's only table whose value its WHERE fixes, in lower case, with that value."""
        select = table.parent_select
        if not isinstance(select, exp.Select) or select.args.get("joins") or not select.args.get("where"):
            return {}
        where = select.args["where"].this
        fixed = {}
        for condition in where.flatten() if isinstance(where, exp.And) else [where]:
            if not isinstance(condition, exp.EQ) or not isinstance(condition.left, exp.Column):
                continue
            if any(condition.right.find_all(exp.Column, exp.Select)):
                continue
            value = as_duckdb(exp.Select(expressions=[exp.cast(condition.right.copy(), exp.DType.VARCHAR)]))
            [(text,)] = self._connection.execute(value.sql("duckdb"), _used(value, parameters)).fetchall()
            if text is not None:
                fixed[condition.left.name.lower()] = text
        return fixed

    def _view(self, view: View) -> str:
        """Make a view of DuckDB from a view's query."""
        translated = self._translate(parsed(view.query), {})
        name = f"source_{self._views}"
        self._views += 1
        self._connection.execute(f"CREATE TEMP VIEW {name} AS {translated.sql('duckdb')}")
        return name

    def _parquet_dataset(self, path: str) -> pyarrow.dataset.Dataset:
        if not path.startswith(_external_locations()):
            raise _no_external_location(path)
        try:
            return open_directory(self._filesystem, path)
        except FileNotFoundError as error:
            raise StatementError(f"[PATH_NOT_FOUND] Path does not exist: {path}. SQLSTATE: 42K03") from error

    def _stop_if_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise InterruptedStatementError


def _constant(expression: exp.Expr, parameters: Mapping[str, str]) -> str:
    """Return the value of an expression of literals, parameter markers and concatenation, as IDENTIFIER allows."""
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


def _literal(text: str) -> str:
    return exp.Literal.string(text).sql("duckdb")


def _names_a_table(marker: exp.Expr) -> bool:
    call = marker.find_ancestor(exp.Anonymous)
    if call is None:
        return False
    return call.name.upper() == "IDENTIFIER" or (call.name.upper() == "TABLE_CHANGES" and marker is call.expressions[0])


def _is_variable(expression: exp.Expr, variables: Collection[str]) -> bool:
    """Return whether an expression is a variable. With FROM it is a column, because Spark looks for a column first."""
    if not isinstance(expression, exp.Column) or expression.table or expression.name.lower() not in variables:
        return False
    select = expression.find_ancestor(exp.Select)
    return select is None or not select.args.get("from_")


def _is_metadata(column: exp.Column) -> bool:
    return any(_ANY_METADATA.fullmatch(name) for name in (column.name, column.table))


def _hide_metadata(select: exp.Select | None, table: str, metadata: str) -> None:
    """Exclude the metadata column of a table from every ``*``: only a query that names the column gets it."""
    for star in select.find_all(exp.Star) if select is not None else ():
        if star.find_ancestor(exp.Select) is not select or isinstance(star.parent, exp.Count):
            continue
        if isinstance(star.parent, exp.Column) and star.parent.table.lower() != table.lower():
            continue
        excepted = star.args.get("except_") or []
        if metadata not in [column.name for column in excepted]:  # another table of the query may have excluded it
            star.set("except_", [*excepted, exp.column(metadata)])


def _struct_field(part: exp.Expr, number: int) -> exp.Expr:
    """Return an argument of STRUCT as a column, with the name that Spark gives to the field."""
    if part.is_star:
        return part.copy()
    if isinstance(part, exp.PropertyEQ):
        return exp.alias_(part.expression.copy(), part.name, quoted=True)
    return exp.alias_(part.copy(), f"col{number}", quoted=True)


def _used(query: exp.Expr, parameters: Mapping[str, str]) -> dict[str, str]:
    """Return only the parameters that a query uses: DuckDB refuses others."""
    return _values_of(query.find_all(exp.Placeholder), parameters)


def _values_of(markers: Iterable[exp.Placeholder], parameters: Mapping[str, str]) -> dict[str, str]:
    return {marker.name: _value_of(marker, parameters) for marker in markers}


def _value_of(marker: exp.Placeholder, parameters: Mapping[str, str]) -> str:
    if marker.name not in parameters:
        raise StatementError(
            f"[UNBOUND_SQL_PARAMETER] Found the unbound parameter: {marker.name or '_'}. Please, fix `args` and "
            "provide a mapping of the parameter to either a SQL literal or collection constructor functions such as "
            "`map()`, `array()`, `struct()`. SQLSTATE: 42P02"
        )
    return parameters[marker.name]


def _writable_location(path: str) -> str:
    """Check that a directory may be written, and return it with one slash at its end."""
    if not path:
        raise StatementError(
            "[INVALID_EMPTY_LOCATION] The location name cannot be empty string, but `` was given. SQLSTATE: 42K05"
        )
    location = path.rstrip("/") + "/"
    steps = location.removeprefix("s3://").rstrip("/").split("/")
    # Refuse the bucket itself, and `..` and empty steps, which would bypass the check.
    if not location.startswith(_external_locations()) or len(steps) < 2 or not {"", ".", ".."}.isdisjoint(steps):
        raise _no_external_location(path)
    return location


def _no_external_location(path: str) -> StatementError:
    return StatementError(
        "[UNAUTHORIZED_ACCESS] Unauthorized access: PERMISSION_DENIED: No parent external location found for path "
        f"'{path}'. SQLSTATE: 42501"
    )
