"""Translate statements, and the types of columns, from Snowflake's SQL to what fakesnow and DuckDB understand."""

from __future__ import annotations

import re
from collections.abc import Mapping

import duckdb
import sqlglot
from sqlglot import exp

from emulators.snowflake.duckdb_names import to_duckdb, to_snowflake
from emulators.snowflake.errors import (
    SqlError,
    does_not_exist,
    unsupported,
)
from emulators.snowflake.names import key, name_of
from emulators.snowflake.session import Session

# DuckDB's keywords: Snowflake accepts some of them as names without quotes, DuckDB does not.
_DUCKDB_WORDS = frozenset(
    name.upper()
    for (name,) in duckdb.connect()
    .execute("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'")
    .fetchall()
)


def translate(expression: exp.Expr, session: Session) -> exp.Expr:
    """Return the statement in a form that fakesnow understands."""
    expression = expression.copy()
    if isinstance(expression, exp.Create) and expression.kind == "TABLE":
        expression = _create_table(expression, session)
    if isinstance(expression, (exp.Create, exp.Alter)):
        _keep_38_digits(expression)
    if isinstance(expression, exp.Select):
        _name_columns(expression)
    _guard_divisions(expression)
    for trim in expression.find_all(exp.Trim):
        # Cast here: fakesnow's own cast drops the argument with the characters to trim.
        if not isinstance(trim.this, exp.Cast):
            trim.set("this", exp.cast(trim.this, "VARCHAR"))
    for number in list(expression.find_all(exp.ToNumber)):
        if number.args.get("format") is not None:
            number.replace(_hexadecimal(number))
    if isinstance(expression, exp.Merge):
        for update in expression.find_all(exp.Update):
            for assignment in update.expressions:
                # DuckDB allows no table name on the left of the assignment.
                assignment.this.set("table", None)
    names_tables = not isinstance(expression, (exp.Create, exp.Drop)) or expression.args["kind"] in {"TABLE", "VIEW"}
    if names_tables and not isinstance(expression, (exp.Use, exp.Show)):
        for identifier in expression.find_all(exp.Identifier):
            if identifier.quoted and identifier.arg_key not in {"db", "catalog"}:
                identifier.set("this", to_duckdb(identifier.name))
    return expression.transform(_replace, _values(session), copy=False)


def _create_table(expression: exp.Create, session: Session) -> exp.Create:
    properties = expression.args.get("properties")
    like = properties.find(exp.LikeProperty) if properties else None
    if like:
        expression.set("this", exp.Schema(this=expression.this, expressions=_columns_like(like.this, session)))
    if properties:
        kept = [p for p in properties.expressions if not isinstance(p, (exp.LikeProperty, exp.TransientProperty))]
        expression.set("properties", exp.Properties(expressions=kept) if kept else None)
    if isinstance(expression.this, exp.Schema):
        _drop_keys(expression.this)
        _limit_lengths(expression.this)
    return expression


def _keep_38_digits(expression: exp.Expr) -> None:
    """Declare NUMBER(38, 0), INT and their synonyms as DECIMAL(38): fakesnow would make them integers of 64 bits."""
    for column in expression.find_all(exp.ColumnDef):
        kind = column.kind
        is_integer = kind is not None and kind.is_type(*exp.DataType.SIGNED_INTEGER_TYPES)
        if is_integer or (kind is not None and kind == exp.DataType.build("DECIMAL(38, 0)")):
            # No scale: fakesnow replaces DECIMAL(38, 0) and leaves DECIMAL(38) alone.
            column.set("kind", exp.DataType.build("DECIMAL(38)"))


_UNSUPPORTED_TYPES = frozenset({"DECFLOAT", "GEOGRAPHY", "GEOMETRY", "VECTOR", "MAP", "FILE", "UUID"})
_MAX_SCALE = 37
_FRACTION_DIGITS = 9
# DuckDB stores several types of Snowflake as one type. A comment of the column keeps the name that DESCRIBE shows.
_DECLARED_TYPES = {
    exp.DataType.Type.TIMESTAMP: "TIMESTAMP_NTZ",
    exp.DataType.Type.TIMESTAMPNTZ: "TIMESTAMP_NTZ",
    exp.DataType.Type.DATETIME: "TIMESTAMP_NTZ",
    exp.DataType.Type.TIMESTAMPLTZ: "TIMESTAMP_LTZ",
    exp.DataType.Type.TIMESTAMPTZ: "TIMESTAMP_TZ",
    exp.DataType.Type.TIME: "TIME",
    exp.DataType.Type.ARRAY: "ARRAY",
    exp.DataType.Type.LIST: "ARRAY",
    exp.DataType.Type.OBJECT: "OBJECT",
}


def declared_type(kind: exp.DataType) -> str | None:
    """
    Return Snowflake's name of a column's type if DuckDB's type does not determine it, else None.

    :raises SqlError: if the emulator does not support the type, or Snowflake has no such type.
    """
    name = kind.sql("snowflake").upper().partition("(")[0].strip()
    sizes = [int(size.name) for size in kind.expressions if isinstance(size, exp.DataTypeParam) and size.name.isdigit()]
    if name in _UNSUPPORTED_TYPES or (kind.expressions and not sizes):
        raise unsupported(f"columns of type {kind.sql('snowflake')}")
    if kind.is_type(exp.DataType.Type.DECIMAL) and len(sizes) > 1 and sizes[1] > _MAX_SCALE:
        raise SqlError(
            1439, "42601", f"SQL compilation error:\nInvalid scale: {sizes[1]}. Must be between 0 and {_MAX_SCALE}."
        )
    known = _DECLARED_TYPES.get(kind.this)
    if known is None or known in {"ARRAY", "OBJECT"}:
        return known
    return f"{known}({sizes[0] if sizes else _FRACTION_DIGITS})"


def declared_columns(expression: exp.Expr, session: Session) -> tuple[tuple[str, str, str], dict[str, str]] | None:
    """
    Find the columns that CREATE TABLE or ALTER TABLE adds and whose type DuckDB alone does not determine.

    :returns: the table's name, and column -> Snowflake's type; None if the statement adds no columns to a table.
    """
    table = expression.find(exp.Table)
    is_table = isinstance(expression, (exp.Create, exp.Alter)) and expression.args.get("kind") == "TABLE"
    if table is None or not is_table:
        return None
    if_not_exists = isinstance(expression, exp.Create) and bool(expression.args.get("exists"))
    if if_not_exists and _has_columns(session.qualified(table), session):
        return None
    if isinstance(expression, exp.Create):
        properties = expression.args.get("properties")
        if like := properties.find(exp.LikeProperty) if properties else None:
            rows = _comments(session.qualified(like.this), session)
            return session.qualified(table), rows
        definitions = expression.this.expressions if isinstance(expression.this, exp.Schema) else []
    else:
        definitions = expression.args.get("actions") or []
    found = {
        name_of(column.this): declared
        for column in definitions
        if isinstance(column, exp.ColumnDef) and column.kind and (declared := declared_type(column.kind))
    }
    return session.qualified(table), found


def _has_columns(key: tuple[str, str, str], session: Session) -> bool:
    found = (
        session.account.duck_conn.cursor()
        .execute(
            "SELECT TRUE FROM duckdb_columns() WHERE database_name = ? AND schema_name = ? AND table_name = ? LIMIT 1",
            [*key[:2], to_duckdb(key[2])],
        )
        .fetchone()
    )
    return found is not None


def _comments(key: tuple[str, str, str], session: Session) -> dict[str, str]:
    rows = (
        session.account.duck_conn.cursor()
        .execute(
            "SELECT column_name, comment FROM duckdb_columns()"
            " WHERE database_name = ? AND schema_name = ? AND table_name = ? AND comment IS NOT NULL",
            [*key[:2], to_duckdb(key[2])],
        )
        .fetchall()
    )
    return {to_snowflake(column): comment for column, comment in rows}


def described_types(expression: exp.Describe, session: Session) -> dict[str, str]:
    """Return column -> Snowflake's type, for the columns of a described table whose type DuckDB does not determine."""
    table = expression.find(exp.Table)
    return _comments(session.qualified(table), session) if table is not None else {}


def _columns_like(table: exp.Table, session: Session) -> list[exp.Expr]:
    """Return the column definitions of an existing table: names, types, NOT NULL and defaults."""
    database, schema, name = session.qualified(table)
    rows = (
        session.account.duck_conn.cursor()
        .execute(
            "SELECT c.column_name, c.data_type, c.is_nullable, c.column_default, e.ext_character_maximum_length"
            " FROM duckdb_columns() c LEFT JOIN _fs_global._fs_information_schema._fs_columns_ext e"
            " ON (c.database_name, c.schema_name, c.table_name, c.column_name)"
            " = (e.ext_table_catalog, e.ext_table_schema, e.ext_table_name, e.ext_column_name)"
            " WHERE c.database_name = ? AND c.schema_name = ? AND c.table_name = ? ORDER BY c.column_index",
            [database, schema, to_duckdb(name)],
        )
        .fetchall()
    )
    if not rows:
        raise does_not_exist("Object", ".".join(name_of(part) for part in table.parts))
    columns: list[exp.Expr] = []
    for column, type_, nullable, default, length in rows:
        # Build with the dialect of Snowflake: sqlglot's dialect of DuckDB drops the length.
        kind = exp.DataType.build(*((f"VARCHAR({length})", "snowflake") if length else (type_, "duckdb")))
        constraints = [] if nullable else [exp.ColumnConstraint(kind=exp.NotNullColumnConstraint())]
        if default is not None and default != "NULL":
            value = sqlglot.parse_one(default, read="duckdb")
            constraints.append(exp.ColumnConstraint(kind=exp.DefaultColumnConstraint(this=value)))
        columns.append(exp.ColumnDef(this=exp.to_identifier(column, quoted=True), kind=kind, constraints=constraints))
    return columns


def _drop_keys(schema: exp.Schema) -> None:
    """Remove PRIMARY KEY, UNIQUE and FOREIGN KEY: of these, Snowflake enforces only that a primary key is NOT NULL."""
    keys = (exp.UniqueColumnConstraint, exp.Reference)
    primary = {
        name_of(c.this if isinstance(c, exp.Column) else c)
        for k in schema.find_all(exp.PrimaryKey)
        for c in k.expressions
    }
    kept: list[exp.Expr] = []
    for item in schema.expressions:
        if isinstance(item, exp.ColumnDef):
            constraints = item.args.get("constraints") or []
            is_primary = name_of(item.this) in primary
            for constraint in list(constraints):
                if isinstance(constraint.kind, exp.PrimaryKeyColumnConstraint):
                    is_primary = True
                if isinstance(constraint.kind, (*keys, exp.PrimaryKeyColumnConstraint)):
                    constraints.remove(constraint)
            if is_primary and not any(isinstance(c.kind, exp.NotNullColumnConstraint) for c in constraints):
                constraints.append(exp.ColumnConstraint(kind=exp.NotNullColumnConstraint()))
            item.set("constraints", constraints)
        elif isinstance(item, (exp.PrimaryKey, exp.ForeignKey, exp.UniqueColumnConstraint, exp.Constraint)):
            continue
        kept.append(item)
    schema.set("expressions", kept)


_BINARY_TYPES = (exp.DataType.Type.BINARY, exp.DataType.Type.VARBINARY)


def _limit_lengths(schema: exp.Schema) -> None:
    """Add a CHECK to each VARCHAR(n) and BINARY(n): DuckDB ignores the length of VARCHAR and refuses that of BINARY."""
    for column in schema.expressions:
        if not isinstance(column, exp.ColumnDef) or not isinstance(column.kind, exp.DataType):
            continue
        size = column.kind.find(exp.DataTypeParam)
        if size is None or not column.kind.is_type(*exp.DataType.TEXT_TYPES, *_BINARY_TYPES):
            continue
        name = exp.column(exp.to_identifier(name_of(column.this), quoted=True)).sql("duckdb")
        length, shown = f"LENGTH({name})", f"'String ''' || {name}"
        if column.kind.is_type(*_BINARY_TYPES):
            length, shown = f"OCTET_LENGTH({name})", f"'Binary ''' || HEX({name})"
            column.kind.set("expressions", [])
        words = f"{shown} || ''' is too long and would be truncated'"
        check = f"CASE WHEN {length} > {size.name} THEN ERROR({words}) ELSE TRUE END"
        constraint = exp.CheckColumnConstraint(this=sqlglot.parse_one(check, read="duckdb"))
        column.append("constraints", exp.ColumnConstraint(kind=constraint))


def _guard_divisions(expression: exp.Expr) -> None:
    """Make a division by zero fail: in DuckDB its result is infinity or NULL."""
    # Innermost divisions first: an outer division is replaced by a copy, which must contain the changed inner one.
    for division in reversed(list(expression.find_all(exp.Div, exp.Mod))):
        dividend, divisor = division.this, division.expression
        if isinstance(divisor, exp.Literal) and divisor.is_number and float(divisor.name) != 0:
            continue
        is_zero = exp.EQ(this=_bracketed(divisor), expression=exp.Literal.number(0))
        has_dividend = exp.Not(this=exp.Is(this=_bracketed(dividend), expression=exp.Null()))
        error = exp.Anonymous(this="ERROR", expressions=[exp.Literal.string("Division by zero")])
        fails = exp.And(this=is_zero, expression=has_dividend)
        division.replace(exp.Case(ifs=[exp.If(this=fails, true=error)], default=division.copy()))


def _bracketed(expression: exp.Expr) -> exp.Expr:
    copied = expression.copy()
    return copied if isinstance(copied, (exp.Paren, exp.Column, exp.Literal, exp.Func)) else exp.Paren(this=copied)


def _name_columns(select: exp.Select) -> None:
    """Name each expression that has no alias by its text in upper case, as Snowflake does."""
    for item in list(select.expressions):
        if not isinstance(item, (exp.Alias, exp.Column, exp.Star, exp.Dot)):
            text = item.sql("snowflake").upper()
            item.replace(exp.alias_(item.copy(), text, quoted=True))


def _values(session: Session) -> dict[type[exp.Expr], str | None]:
    """Return the values of CURRENT_USER() and the like."""
    database = session.database if session.database_set else None
    if database is not None and not session.may(key("DATABASE", database), "USAGE"):
        database = None
    schema = session.schema if database is not None and session.schema_set else None
    if schema is not None and not session.may(key("SCHEMA", str(database), schema), "USAGE"):
        schema = None
    return {
        exp.CurrentUser: session.user,
        exp.CurrentRole: session.role,
        exp.CurrentWarehouse: session.warehouse,
        exp.CurrentAccount: session.account.identifier,
        exp.CurrentDatabase: database,
        exp.CurrentSchema: schema,
    }


def _replace(node: exp.Expr, values: Mapping[type[exp.Expr], str | None]) -> exp.Expr:
    """Quote names that are keywords in DuckDB, and replace CURRENT_USER() and the like by the session's values."""
    if isinstance(node, exp.Identifier) and not node.quoted and node.name.upper() in _DUCKDB_WORDS:
        return exp.to_identifier(node.name.upper(), quoted=True)
    if type(node) in values:
        value = values[type(node)]
        return exp.Null() if value is None else exp.Literal.string(value)
    return node


def _hexadecimal(node: exp.ToNumber) -> exp.Expr:
    """Translate TO_NUMBER with a hexadecimal format: a text with more digits than the format is refused."""
    digits = node.args["format"].name
    if not re.fullmatch("[Xx]{1,31}", digits):
        raise unsupported(f"TO_NUMBER with the format {digits}")
    text = node.this.sql("duckdb")
    error = f"ERROR('Can''t parse ' || {text} || ' as number with format {digits}')"
    value = f"CASE WHEN LENGTH({text}) > {len(digits)} THEN {error} ELSE '0x' || {text} END"
    return sqlglot.parse_one(f"CAST(CAST({value} AS HUGEINT) AS DECIMAL(38, 0))", read="duckdb")
