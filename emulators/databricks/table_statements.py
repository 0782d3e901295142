"""
The statements of Databricks that change a Delta table: ``UPDATE``, ``DELETE``, ``SET TBLPROPERTIES`` and ``VACUUM``.

They are for the live suite, so they are simple: one table by its name, conditions and values of columns, literals, sums
and comparisons, the property of the change data feed alone, and VACUUM with the retention of the table. The emulator
has no deletion vectors, with which a ``DELETE`` of Databricks writes no change files.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import s3fs
import sqlglot
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from sqlglot import exp
from sqlglot.errors import SqlglotError

from emulators.databricks.delta_tables import retention_of, root_of
from emulators.databricks.errors import StatementError, not_found, syntax_error
from emulators.databricks.sql_text import written_name
from emulators.databricks.unity_catalog import table_uri
from emulators.s3 import storage_options

PROPERTIES = r"TBLPROPERTIES\s*\(([^()]*)\)"
"""The clause with a table's properties, as a regular expression with one group."""

_FEED = "delta.enableChangeDataFeed"
_FEED_IS = re.compile(rf"\s*('?){re.escape(_FEED)}\1\s*=\s*('?)(true|false)\2\s*", re.IGNORECASE)
_SET_PROPERTIES = re.compile(rf"ALTER\s+TABLE\s+(\S+)\s+SET\s+{PROPERTIES}", re.IGNORECASE)
_VACUUM = re.compile(r"VACUUM\s+(\S+)", re.IGNORECASE)
# What means the same to Databricks and to deltalake's engine.
_SAME = (
    *(exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Paren, exp.Add, exp.Sub, exp.And, exp.Or, exp.Not),
    *(exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE),
)


def properties_of(written: str) -> dict[str, str]:
    """
    Return the properties of a table, from the text between the parentheses of TBLPROPERTIES.

    :raises StatementError: they are others than the emulator knows.
    """
    if (match := _FEED_IS.fullmatch(written)) is None:
        raise syntax_error(written, f"the sandbox knows only the property {_FEED}, which is true or false")
    return {_FEED: match[3].lower()}


def change_table(endpoint_url: str, filesystem: s3fs.S3FileSystem, sql: str) -> str | None:
    """
    Execute a statement that changes a table.

    :returns: the only value of its result, empty if it has none; None if this is another kind of statement.
    :raises StatementError: in the words of Databricks.
    """
    if altered := _SET_PROPERTIES.fullmatch(sql):
        properties = properties_of(altered[2])
        _table(endpoint_url, altered[1]).alter.set_table_properties(properties)
        return ""
    if vacuumed := _VACUUM.fullmatch(sql):
        return _vacuum(filesystem, _table(endpoint_url, vacuumed[1]))
    if not re.match(r"(UPDATE|DELETE)\s", sql, re.IGNORECASE):
        return None
    try:
        statement = sqlglot.parse_one(sql, read="databricks")
    except SqlglotError as error:
        raise StatementError(f"[PARSE_SYNTAX_ERROR] {error} SQLSTATE: 42601") from error
    if not isinstance(statement, exp.Update | exp.Delete) or not isinstance(statement.this, exp.Table):
        raise syntax_error(sql, "the sandbox updates, and deletes from, one table")
    if others := {name for name, value in statement.args.items() if value} - {"this", "expressions", "where"}:
        raise syntax_error(min(others), "the sandbox knows only UPDATE ... SET ... WHERE and DELETE FROM ... WHERE")
    table = _table(endpoint_url, written_name(statement.this))
    where = statement.args.get("where")
    condition = _expression(table, where.this) if where is not None else None
    try:
        if isinstance(statement, exp.Delete):
            return str(table.delete(condition)["num_deleted_rows"])
        return str(table.update(_assignments(table, statement.expressions), predicate=condition)["num_updated_rows"])
    except DeltaError as error:
        raise StatementError(f"[INTERNAL_ERROR] The sandbox cannot do this: {error} SQLSTATE: XX000") from error


def _table(endpoint_url: str, name: str) -> DeltaTable:
    try:
        return DeltaTable(table_uri(name), storage_options=storage_options(endpoint_url))
    except (ValueError, TableNotFoundError) as error:
        raise not_found(".".join(f"`{part}`" for part in name.replace("`", "").split("."))) from error


def _assignments(table: DeltaTable, assignments: list[exp.Expr]) -> dict[str, str]:
    """Return the new value of each column, as deltalake takes it."""
    columns = [_column(table, assignment.this) for assignment in assignments]
    if len(set(columns)) < len(columns):
        listed = ", ".join(f"`{column}`" for column in columns)
        raise StatementError(
            f"[DELTA_CONFLICT_SET_COLUMN] There is a conflict from these SET columns: [{listed}]. SQLSTATE: 42701"
        )
    return {
        column: _expression(table, assignment.expression)
        for column, assignment in zip(columns, assignments, strict=True)
    }


def _expression(table: DeltaTable, expression: exp.Expr) -> str:
    """Return a condition or a value as deltalake takes it."""

    def quoted(node: Any) -> Any:
        if not isinstance(node, _SAME):
            raise syntax_error(node.sql("databricks"), "the sandbox changes tables by simple conditions and values")
        return exp.column(_column(table, node), quoted=True) if isinstance(node, exp.Column) else node

    return str(expression.copy().transform(quoted).sql())


def _column(table: DeltaTable, column: exp.Expr) -> str:
    """Return the name of a column as the table has it: Databricks ignores case."""
    names = [field.name for field in table.schema().fields]
    if isinstance(column, exp.Column) and not column.table:
        for name in names:
            if name.lower() == column.name.lower():
                return name
    listed = ", ".join(f"`{name}`" for name in names)
    raise StatementError(
        f"[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column, variable, or function parameter with name "
        f"`{column.sql('databricks')}` cannot be resolved. Did you mean one of the following? [{listed}]. "
        "SQLSTATE: 42703"
    )


def _vacuum(filesystem: s3fs.S3FileSystem, table: DeltaTable) -> str:
    """Remove the files that a table no longer keeps. Databricks commits begin and end also if there are none."""
    before = table.version()
    table.vacuum(dry_run=False)
    if table.version() == before:
        kept = {"retentionCheckEnabled": "true", "defaultRetentionMillis": str(retention_of(table))}
        none = {"numFilesToDelete": "0", "sizeOfDataToDelete": "0"}
        _commit(filesystem, table, before + 1, "VACUUM START", kept, none)
        none = {"numDeletedFiles": "0", "numVacuumedDirectories": "1"}
        _commit(filesystem, table, before + 2, "VACUUM END", {"status": "COMPLETED"}, none)
    return root_of(table)


def _commit(
    filesystem: s3fs.S3FileSystem,
    table: DeltaTable,
    version: int,
    operation: str,
    parameters: dict[str, str],
    metrics: dict[str, str],
) -> None:
    entry = {
        "timestamp": time.time_ns() // 1_000_000,
        "operation": operation,
        "operationParameters": parameters,
        "operationMetrics": metrics,
    }
    path = f"{root_of(table)}/_delta_log/{version:020}.json"
    filesystem.pipe_file(path, json.dumps({"commitInfo": entry}).encode())
