"""What fakesnow lacks and this project's users send: recognised, checked and rewritten, one statement at a time."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, TypeVar, cast

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from emulators.snowflake import policies, privileges
from emulators.snowflake.duckdb_names import inner, outer
from emulators.snowflake.errors import (
    SqlError,
    already_exists,
    cannot_use,
    does_not_exist,
    insufficient,
    not_assigned,
    syntax_error,
    unsupported,
)
from emulators.snowflake.locks import CATALOGUE, DEFAULT_LOCK_TIMEOUT, Mode, Table
from emulators.snowflake.names import key, name_of, normal, qualified

if TYPE_CHECKING:
    from emulators.snowflake.engine import Session

# It warns of each statement that it only partly understands, and those are handled here.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

# Names that Snowflake takes without quotes and DuckDB does not.
_DUCKDB_WORDS = frozenset(
    name.upper()
    for (name,) in duckdb.connect()
    .execute("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'")
    .fetchall()
)
_Property = TypeVar("_Property", bound=exp.Expr)
FormatOptions = dict[str, str | bool | list[str]]
"""The options of a file format, as :func:`format_options` reads them."""

DEFAULT_TIME_ZONE = "America/Los_Angeles"
"""The session parameter TIMEZONE of an account where nobody has set it."""

_READS = (exp.Query, exp.Show, exp.Describe, exp.Use, exp.Set, exp.ListStage)
_DDL = (exp.Create, exp.Drop, exp.Alter, exp.Comment, exp.Grant, exp.Revoke)
_DDL_COMMANDS = frozenset({"CREATE", "DROP", "ALTER", "GRANT", "REVOKE", "COMMENT"})
_READ_CONSISTENCY = re.compile(r"ALTER ACCOUNT SET READ_CONSISTENCY_MODE = '(SESSION|GLOBAL)'", re.IGNORECASE)
_STATEMENTS = (
    *(*_READS, *_DDL, exp.DML, exp.Copy, exp.TruncateTable, exp.Transaction, exp.Commit, exp.Rollback),
    *(exp.Command, exp.MultitableInserts, exp.Put, exp.Get),
)


def split(sql: str) -> list[str]:
    """The statements of a text, as they were written; comments alone are none."""
    tokens = sqlglot.tokenize(sql, read="snowflake")
    statements: list[str] = []
    start: int | None = None
    for token in tokens:
        if token.token_type == TokenType.SEMICOLON:
            if start is not None:
                statements.append(sql[start : token.start].strip())
            start = None
        elif start is None:
            start = token.start
    if start is not None:
        statements.append(sql[start:].strip())
    return statements


def parse_one(sql: str) -> exp.Expr:
    """
    The statement's tree.

    :raises SqlError: 1003 if it is no statement.
    """
    if re.fullmatch(r"\s*START\s+TRANSACTION\s*;?\s*", sql, re.IGNORECASE):
        return exp.Transaction()
    texts = split(sql)
    if len(texts) != 1:
        raise SqlError(
            *(
                (900, "42601", "SQL compilation error:\nEmpty SQL statement.")
                if not texts
                else _count_error(len(texts), 1)
            )
        )
    if (statement := policies.about_policies(texts[0])) is not None:
        return statement
    for token in sqlglot.tokenize(texts[0], read="snowflake"):
        if token.token_type == TokenType.VAR and not token.text.isascii():
            raise syntax_error(token.line, max(0, token.col - len(token.text)), token.text)
    # The parser takes `?::` for an operator of another dialect.
    expression = sqlglot.parse_one(_spaced(texts[0]), read="snowflake")
    if not isinstance(expression, _STATEMENTS):
        # The parser takes almost any words for an expression.
        raise syntax_error(1, 0, texts[0].split(None, 1)[0])
    return expression


def _spaced(sql: str) -> str:
    for token in reversed(sqlglot.tokenize(sql, read="snowflake")):
        if token.token_type == TokenType.QDCOLON:
            sql = sql[: token.start] + "? ::" + sql[token.end + 1 :]
    return sql


def _count_error(actual: int, desired: int) -> tuple[int, str, str]:
    return 8, "0A000", f"Actual statement count {actual} did not match the desired statement count {desired}."


def check_count(actual: int, desired: int) -> None:
    """
    Check the number of a request's statements.

    :param desired: what the client announced; 0 is any number.
    :raises SqlError: 8 if it is another one.
    """
    if desired and actual != desired:
        raise SqlError(*_count_error(actual, desired))


def locked_tables(expression: exp.Expr, session: Session) -> dict[Table, Mode]:
    """
    The tables that the statement holds until its transaction ends, and how.

    :raises SqlError: if the session has no current database or schema to complete a name.
    """
    if isinstance(expression, exp.Insert):
        mode = Mode.CHANGES if expression.args.get("overwrite") else Mode.INSERTS
        return {qualified(cast("exp.Table", expression.find(exp.Table)), session): mode}
    if isinstance(expression, exp.Copy):
        is_into_table = isinstance(expression.this, exp.Table) and not expression.this.name.startswith("@")
        return {qualified(expression.this, session): Mode.INSERTS} if is_into_table else {}
    if isinstance(expression, (exp.Update, exp.Delete, exp.Merge)):
        return {qualified(expression.this, session): Mode.CHANGES}
    if isinstance(expression, exp.TruncateTable):
        return {qualified(table, session): Mode.CHANGES for table in expression.expressions}
    if not is_ddl(expression):
        return {}
    # Behind its table, so that who waits for a table keeps nobody from another one.
    redefined = {qualified(table, session): Mode.REDEFINES for table in _redefined_tables(expression)}
    return {**redefined, CATALOGUE: Mode.REDEFINES}


def _redefined_tables(expression: exp.Expr) -> list[exp.Table]:
    """The tables that DDL makes, alters or drops."""
    if isinstance(expression, exp.Alter) and isinstance(expression.this, exp.Table):
        return [expression.this]
    return changed_tables(expression)


def is_session(expression: exp.Expr) -> bool:
    """Whether the statement changes nothing but its session."""
    if isinstance(expression, exp.Command):
        return str(expression.this).upper() in {"SET", "UNSET"}
    return isinstance(expression, (exp.Use, exp.Set)) or (
        isinstance(expression, exp.Alter) and expression.args.get("kind") == "SESSION"
    )


def is_ddl(expression: exp.Expr) -> bool:
    """Whether the statement commits the open transaction."""
    if is_session(expression):
        return False
    if isinstance(expression, exp.Command):
        return str(expression.this).upper() in _DDL_COMMANDS
    return isinstance(expression, _DDL)


def needs_transaction(expression: exp.Expr) -> bool:
    """Whether one statement of Snowflake becomes several of DuckDB, which must be seen together or not at all."""
    if isinstance(expression, exp.Insert):
        return bool(expression.args.get("overwrite"))
    return isinstance(expression, (exp.Copy, exp.TruncateTable))


def needs_warehouse(expression: exp.Expr) -> bool:
    """Whether the statement computes something, or is answered by Snowflake's metadata alone."""
    if isinstance(expression, exp.Query):
        return expression.find(exp.Table) is not None
    if isinstance(expression, exp.Create):
        return isinstance(expression.expression, exp.Query)
    return isinstance(expression, (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Copy))


def wait_seconds(expression: exp.Expr) -> float | None:
    """The seconds of ``SELECT SYSTEM$WAIT(n)`` or ``CALL SYSTEM$WAIT(n)``, or None for any other statement."""
    match = re.fullmatch(r"(?:SELECT|CALL) SYSTEM\$WAIT\((\d+(?:\.\d+)?)\)", expression.sql("snowflake"), re.IGNORECASE)
    return float(match[1]) if match else None


def account_statement(expression: exp.Expr, session: Session) -> str | None:
    """
    Do what a statement about the account's objects says: roles, warehouses, integrations, grants, session settings.

    :returns: the sentence that it answers, or None if it is another kind of statement.
    """
    done = "Statement executed successfully."
    if isinstance(expression, exp.Alter) and expression.args.get("kind") == "SESSION":
        return done if _alter_session(expression, session) else None
    if isinstance(expression, exp.Use):
        return done if _use(expression, session) else None
    if isinstance(expression, (exp.Grant, exp.Revoke)) or _is_command(expression, "GRANT", "REVOKE"):
        privileges.change_grants(expression.sql("snowflake"), session)
        return done
    if match := _READ_CONSISTENCY.fullmatch(expression.sql("snowflake")):
        # Of what the role may do, this is known: no other may set a parameter of the account.
        if session.role != "ACCOUNTADMIN":
            raise insufficient("account", session.engine.account)
        session.engine.sees_late = match[1].upper() == "SESSION"
        return done
    if match := privileges.created_role(expression):
        return _create_role(normal(match[2]), session, exists=bool(match[1]))
    if isinstance(expression, exp.Create):
        return _create_object(expression, session)
    if isinstance(expression, exp.Drop):
        return _drop_object(expression, session)
    return None


def _alter_session(expression: exp.Alter, session: Session) -> bool:
    for action in expression.args.get("actions") or ():
        for item in action.expressions:
            setting = item.this
            name = setting.this.name if isinstance(setting, exp.EQ) else setting.name
            value = setting.expression.name if isinstance(setting, exp.EQ) else ""
            if name.upper() == "TIMEZONE":
                session.set_time_zone(value or DEFAULT_TIME_ZONE)
            elif name.upper() == "QUERY_TAG":
                session.query_tag = value
            elif name.upper() == "LOCK_TIMEOUT":
                session.lock_timeout = float(value or DEFAULT_LOCK_TIMEOUT)
            else:
                return False
    return True


def _use(expression: exp.Use, session: Session) -> bool:
    kind = expression.args["kind"].name.upper() if expression.args.get("kind") else ""
    if kind not in {"ROLE", "WAREHOUSE"}:
        return False
    name = name_of(expression.this)
    catalogue = session.engine.catalogue
    if name not in (catalogue.roles if kind == "ROLE" else catalogue.warehouses):
        raise cannot_use()
    if kind == "ROLE" and not catalogue.rights.may_use(session.user, name):
        raise not_assigned(name)
    if kind == "WAREHOUSE" and not session.may(key("WAREHOUSE", name), "USAGE"):
        raise cannot_use()
    setattr(session, kind.lower(), name)
    return True


def _create_role(name: str, session: Session, *, exists: bool) -> str:
    status = _create(list(session.engine.catalogue.roles), name, "Role", exists=exists)
    session.engine.catalogue.rights.roles.setdefault(name, [])
    return status


def _create_object(expression: exp.Create, session: Session) -> str | None:
    catalogue = session.engine.catalogue
    kind, exists, replace = expression.kind, bool(expression.args.get("exists")), bool(expression.args.get("replace"))
    if kind == "WAREHOUSE":
        return _create(catalogue.warehouses, name_of(expression.this), "Warehouse", exists=exists, replace=replace)
    if kind != "STORAGE INTEGRATION":
        if kind == "STAGE":
            _check_stage(expression, session)
        return None
    name = name_of(expression.this)
    locations = [
        literal.name for literal in property_of(expression, "STORAGE_ALLOWED_LOCATIONS", exp.Tuple).expressions
    ]
    if not property_of(expression, "ENABLED", exp.Boolean).this:
        raise unsupported("STORAGE INTEGRATION with ENABLED = FALSE")
    names = list(catalogue.integrations)
    status = _create(names, name, "Integration", exists=exists, replace=replace)
    if name not in catalogue.integrations or replace:
        catalogue.integrations[name] = locations
    return status


def _create(names: list[str], name: str, kind: str, *, exists: bool = False, replace: bool = False) -> str:
    if name in names:
        if exists:
            return f"{name} already exists, statement succeeded."
        if not replace:
            raise already_exists(name)
    else:
        names.append(name)
    return f"{kind} {name} successfully created."


def _drop_object(expression: exp.Drop, session: Session) -> str | None:
    catalogue = session.engine.catalogue
    targets = expression.args.get("tables") or [expression.this]
    kind = str(expression.args.get("kind") or "").upper()
    if kind == "STAGE":
        key = qualified(targets[0], session)
        name = key[2]
        found = _stage_url(key, session) is not None
        session.engine.duck_conn.cursor().execute(
            "DELETE FROM _fs_global._fs_information_schema._fs_stages"
            " WHERE database_name = ? AND schema_name = ? AND name = ?",
            key,
        )
        catalogue.stage_formats.pop(".".join(key), None)
    elif kind == "ROLE":
        name = name_of(targets[0])
        # What it owned finds its heir in privileges.note_end.
        found = name in catalogue.roles
    elif kind == "WAREHOUSE":
        name = name_of(targets[0])
        if found := name in catalogue.warehouses:
            catalogue.warehouses.remove(name)
    elif kind in {"INTEGRATION", "STORAGE INTEGRATION"}:
        name = name_of(targets[0])
        found = catalogue.integrations.pop(name, None) is not None
    else:
        return None
    if not found and not expression.args.get("exists"):
        raise does_not_exist(kind.capitalize(), name)
    return (
        f"{name} successfully dropped." if found else f"Drop statement executed successfully ({name} already dropped)."
    )


def property_of(expression: exp.Create, name: str, kind: type[_Property]) -> _Property:
    """
    A property of a CREATE statement.

    :raises SqlError: 1003 if it is missing or has another form.
    """
    properties = expression.args.get("properties")
    for item in properties.expressions if properties else ():
        if isinstance(item, exp.Property) and item.name.upper() == name:
            value = item.args.get("value")
            # One value in parentheses is parsed as Paren.
            if kind is exp.Tuple and isinstance(value, exp.Paren):
                value = exp.Tuple(expressions=[value.this])
            if isinstance(value, kind):
                return value
    raise SqlError(1003, "42000", f"SQL compilation error:\nmissing or wrong property {name}")


def _check_stage(expression: exp.Create, session: Session) -> None:
    """Check an external stage's integration and URL, as Snowflake does when the stage is created."""
    properties = expression.args.get("properties")
    names = {item.name.upper() for item in properties.expressions} if properties else set()
    if "URL" not in names:
        return
    if "STORAGE_INTEGRATION" not in names:
        raise unsupported("external stage without STORAGE_INTEGRATION")
    url = property_of(expression, "URL", exp.Literal).name
    integration = property_of(expression, "STORAGE_INTEGRATION", exp.Expr).name.upper()
    locations = session.engine.catalogue.integrations.get(integration)
    if locations is None:
        raise does_not_exist("Integration", integration)
    if not any(url.startswith(location) or location == "*" for location in locations):
        raise SqlError(
            3127,
            "42601",
            f"SQL compilation error:\nLocation '{url}' is not allowed by integration '{integration}'. "
            "Please use DESC INTEGRATION to check out allowed and blocked locations.",
        )


def complete_stage(expression: exp.Expr, session: Session) -> None:
    """Note a new stage's integration and file format, which fakesnow drops."""
    if not (isinstance(expression, exp.Create) and expression.kind == "STAGE"):
        return
    key = qualified(expression.find(exp.Table) or exp.Table(), session)
    properties = expression.args.get("properties")
    for item in properties.expressions if properties else ():
        if isinstance(item, exp.FileFormatProperty):
            session.engine.catalogue.stage_formats[".".join(key)] = format_options(item.expressions)
        elif isinstance(item, exp.Property) and item.name.upper() == "STORAGE_INTEGRATION":
            session.engine.duck_conn.cursor().execute(
                "UPDATE _fs_global._fs_information_schema._fs_stages SET storage_integration = ?"
                " WHERE database_name = ? AND schema_name = ? AND name = ?",
                [item.args["value"].name.upper(), *key],
            )


def format_options(properties: list[exp.Expr]) -> FormatOptions:
    """
    A file format's options: name in upper case -> value, words in upper case too, texts in parentheses as they are.

    :raises SqlError: 1003 if one is stated twice.
    """
    options: FormatOptions = {}
    for item in properties:
        if not isinstance(item, exp.Property):
            continue  # a comma
        name, value = item.name.upper(), item.args.get("value")
        if name in options:
            raise syntax_error(1, 0, name)
        if isinstance(value, (exp.Tuple, exp.Paren)):
            options[name] = [literal.name for literal in value.find_all(exp.Literal)]
        else:
            options[name] = value.this if isinstance(value, exp.Boolean) else str(value.name if value else "").upper()
    return options


def _stage_url(key: tuple[str, str, str], session: Session) -> str | None:
    row = (
        session.engine.duck_conn.cursor()
        .execute(
            "SELECT url FROM _fs_global._fs_information_schema._fs_stages"
            " WHERE database_name = ? AND schema_name = ? AND name = ?",
            key,
        )
        .fetchone()
    )
    return row[0] if row else None


def describe_integration(name: str, session: Session) -> str:
    """A query in DuckDB's SQL for the properties of a storage integration, as far as it has them here."""
    locations = ",".join(session.engine.catalogue.integrations[name])
    rows = [
        ("ENABLED", "Boolean", "true", "false"),
        ("STORAGE_PROVIDER", "String", "S3", ""),
        ("STORAGE_ALLOWED_LOCATIONS", "List", locations, "[]"),
        ("STORAGE_BLOCKED_LOCATIONS", "List", "", "[]"),
    ]
    values = ", ".join(f"({', '.join(exp.Literal.string(value).sql('duckdb') for value in row)})" for row in rows)
    return f"SELECT * FROM (VALUES {values}) AS t(property, property_type, property_value, property_default)"


def stage_url(key: tuple[str, str, str], session: Session) -> str:
    """
    The URL of a stage.

    :raises SqlError: 2003 if there is none of that name.
    """
    url = _stage_url(key, session)
    if url is None:
        raise does_not_exist("Stage", ".".join(key))
    return url


def changed_tables(expression: exp.Expr) -> list[exp.Table]:
    """The tables whose load metadata ends with the statement: created anew, dropped or truncated."""
    if isinstance(expression, exp.TruncateTable):
        return list(expression.expressions)
    if isinstance(expression, exp.Drop) and expression.args.get("kind") == "TABLE":
        return list(expression.args.get("tables") or [expression.this])
    if isinstance(expression, exp.Create) and expression.kind == "TABLE" and not expression.args.get("exists"):
        table = expression.find(exp.Table)
        return [table] if table else []
    return []


def translate(expression: exp.Expr, session: Session) -> exp.Expr:
    """The statement in the form that fakesnow knows."""
    expression = expression.copy()
    if isinstance(expression, exp.Create) and expression.kind == "TABLE":
        expression = _create_table(expression, session)
    if isinstance(expression, (exp.Create, exp.Alter)):
        _keep_38_digits(expression)
    if isinstance(expression, exp.Select):
        _name_columns(expression)
    _guard_divisions(expression)
    for trim in expression.find_all(exp.Trim):
        # fakesnow makes the cast too, and loses the characters to trim.
        if not isinstance(trim.this, exp.Cast):
            trim.set("this", exp.cast(trim.this, "VARCHAR"))
    for number in list(expression.find_all(exp.ToNumber)):
        if number.args.get("format") is not None:
            number.replace(_hexadecimal(number))
    if isinstance(expression, exp.Merge):
        for update in expression.find_all(exp.Update):
            for assignment in update.expressions:
                # DuckDB takes no table name on this side.
                assignment.this.set("table", None)
    names_tables = not isinstance(expression, (exp.Create, exp.Drop)) or expression.args["kind"] in {"TABLE", "VIEW"}
    if names_tables and not isinstance(expression, (exp.Use, exp.Show)):
        for identifier in expression.find_all(exp.Identifier):
            if identifier.quoted and identifier.arg_key not in {"db", "catalog"}:
                identifier.set("this", inner(identifier.name))
    return expression.transform(_replace, session, copy=False)


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
    """Make columns of NUMBER(38, 0), by any of its names, decimals: fakesnow makes them integers of 64 bits."""
    for column in expression.find_all(exp.ColumnDef):
        kind = column.kind
        is_integer = kind is not None and kind.is_type(*exp.DataType.SIGNED_INTEGER_TYPES)
        if is_integer or (kind is not None and kind == exp.DataType.build("DECIMAL(38, 0)")):
            # Without a scale, it is not the type that fakesnow knows.
            column.set("kind", exp.DataType.build("DECIMAL(38)"))


_NOT_HERE = frozenset({"DECFLOAT", "GEOGRAPHY", "GEOMETRY", "VECTOR", "MAP", "FILE", "UUID"})
_MOST_SCALE = 37
_FRACTION_DIGITS = 9
# What DuckDB has one type for, and Snowflake several: DESCRIBE tells them apart.
_TOLD_APART = {
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
    A column's type in Snowflake's words, where DuckDB's says less; None for every other one.

    :raises SqlError: the emulator has no such type, or nobody has.
    """
    name = kind.sql("snowflake").upper().partition("(")[0].strip()
    sizes = [int(size.name) for size in kind.expressions if isinstance(size, exp.DataTypeParam) and size.name.isdigit()]
    if name in _NOT_HERE or (kind.expressions and not sizes):
        raise unsupported(f"columns of type {kind.sql('snowflake')}")
    if kind.is_type(exp.DataType.Type.DECIMAL) and len(sizes) > 1 and sizes[1] > _MOST_SCALE:
        raise SqlError(
            1439, "42601", f"SQL compilation error:\nInvalid scale: {sizes[1]}. Must be between 0 and {_MOST_SCALE}."
        )
    known = _TOLD_APART.get(kind.this)
    if known is None or known in {"ARRAY", "OBJECT"}:
        return known
    return f"{known}({sizes[0] if sizes else _FRACTION_DIGITS})"


def declared_columns(expression: exp.Expr, session: Session) -> tuple[tuple[str, str, str], dict[str, str]] | None:
    """
    The table that a statement gives columns to, and those of them that DuckDB has no type of its own for.

    :returns: the table's key, and Snowflake's type by column; None for any other statement.
    """
    table = expression.find(exp.Table)
    is_table = isinstance(expression, (exp.Create, exp.Alter)) and expression.args.get("kind") == "TABLE"
    if table is None or not is_table:
        return None
    is_kept = isinstance(expression, exp.Create) and bool(expression.args.get("exists"))
    if is_kept and _has_columns(qualified(table, session), session):
        return None
    if isinstance(expression, exp.Create):
        properties = expression.args.get("properties")
        if like := properties.find(exp.LikeProperty) if properties else None:
            rows = _comments(qualified(like.this, session), session)
            return qualified(table, session), rows
        definitions = expression.this.expressions if isinstance(expression.this, exp.Schema) else []
    else:
        definitions = expression.args.get("actions") or []
    found = {
        name_of(column.this): declared
        for column in definitions
        if isinstance(column, exp.ColumnDef) and column.kind and (declared := declared_type(column.kind))
    }
    return qualified(table, session), found


def _has_columns(key: tuple[str, str, str], session: Session) -> bool:
    found = (
        session.engine.duck_conn.cursor()
        .execute(
            "SELECT TRUE FROM duckdb_columns() WHERE database_name = ? AND schema_name = ? AND table_name = ? LIMIT 1",
            [*key[:2], inner(key[2])],
        )
        .fetchone()
    )
    return found is not None


def _comments(key: tuple[str, str, str], session: Session) -> dict[str, str]:
    rows = (
        session.engine.duck_conn.cursor()
        .execute(
            "SELECT column_name, comment FROM duckdb_columns()"
            " WHERE database_name = ? AND schema_name = ? AND table_name = ? AND comment IS NOT NULL",
            [*key[:2], inner(key[2])],
        )
        .fetchall()
    )
    return {outer(column): comment for column, comment in rows}


def described_types(expression: exp.Describe, session: Session) -> dict[str, str]:
    """The types of a described table's columns that DuckDB has none of its own for."""
    table = expression.find(exp.Table)
    return _comments(qualified(table, session), session) if table is not None else {}


def _columns_like(table: exp.Table, session: Session) -> list[exp.Expr]:
    """The column definitions of a table: names, types, NOT NULL and defaults."""
    database, schema, name = qualified(table, session)
    rows = (
        session.engine.duck_conn.cursor()
        .execute(
            "SELECT c.column_name, c.data_type, c.is_nullable, c.column_default, e.ext_character_maximum_length"
            " FROM duckdb_columns() c LEFT JOIN _fs_global._fs_information_schema._fs_columns_ext e"
            " ON (c.database_name, c.schema_name, c.table_name, c.column_name)"
            " = (e.ext_table_catalog, e.ext_table_schema, e.ext_table_name, e.ext_column_name)"
            " WHERE c.database_name = ? AND c.schema_name = ? AND c.table_name = ? ORDER BY c.column_index",
            [database, schema, inner(name)],
        )
        .fetchall()
    )
    if not rows:
        raise does_not_exist("Object", ".".join(name_of(part) for part in table.parts))
    columns: list[exp.Expr] = []
    for column, type_, nullable, default, length in rows:
        # DuckDB's dialect has no lengths.
        kind = exp.DataType.build(*((f"VARCHAR({length})", "snowflake") if length else (type_, "duckdb")))
        constraints = [] if nullable else [exp.ColumnConstraint(kind=exp.NotNullColumnConstraint())]
        if default is not None and default != "NULL":
            value = sqlglot.parse_one(default, read="duckdb")
            constraints.append(exp.ColumnConstraint(kind=exp.DefaultColumnConstraint(this=value)))
        columns.append(exp.ColumnDef(this=exp.to_identifier(column, quoted=True), kind=kind, constraints=constraints))
    return columns


def _drop_keys(schema: exp.Schema) -> None:
    """Snowflake notes PRIMARY KEY, UNIQUE and FOREIGN KEY and enforces only that a primary key is not null."""
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
    """Give each VARCHAR(n) and BINARY(n) a constraint: DuckDB takes a length for a comment, or not at all."""
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
    """Make a division by zero an error: in DuckDB it is infinity or NULL."""
    # The inner ones first, as the outer ones are copied.
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
    """Name the columns of expressions without an alias as Snowflake does: by their text in upper case."""
    for item in list(select.expressions):
        if not isinstance(item, (exp.Alias, exp.Column, exp.Star, exp.Dot)):
            text = item.sql("snowflake").upper()
            item.replace(exp.alias_(item.copy(), text, quoted=True))


def _replace(node: exp.Expr, session: Session) -> exp.Expr:
    """Quote what DuckDB does not take as a name, and fill in what only the session knows."""
    database = session.database if session.database_set else None
    if database is not None and not session.may(key("DATABASE", database), "USAGE"):
        database = None
    schema = session.schema if database is not None and session.schema_set else None
    if schema is not None and not session.may(key("SCHEMA", str(database), schema), "USAGE"):
        schema = None
    values: dict[type[exp.Expr], str | None] = {
        exp.CurrentUser: session.user,
        exp.CurrentRole: session.role,
        exp.CurrentWarehouse: session.warehouse,
        exp.CurrentAccount: session.engine.account,
        exp.CurrentDatabase: database,
        exp.CurrentSchema: schema,
    }
    if isinstance(node, exp.Identifier) and not node.quoted and node.name.upper() in _DUCKDB_WORDS:
        return exp.to_identifier(node.name.upper(), quoted=True)
    if type(node) in values:
        value = values[type(node)]
        return exp.Null() if value is None else exp.Literal.string(value)
    return node


def _hexadecimal(node: exp.ToNumber) -> exp.Expr:
    """TO_NUMBER with a format of hexadecimal digits: at most as many as the format has."""
    digits = node.args["format"].name
    if not re.fullmatch("[Xx]{1,31}", digits):
        raise unsupported(f"TO_NUMBER with the format {digits}")
    text = node.this.sql("duckdb")
    error = f"ERROR('Can''t parse ' || {text} || ' as number with format {digits}')"
    value = f"CASE WHEN LENGTH({text}) > {len(digits)} THEN {error} ELSE '0x' || {text} END"
    return sqlglot.parse_one(f"CAST(CAST({value} AS HUGEINT) AS DECIMAL(38, 0))", read="duckdb")


def _is_command(expression: exp.Expr, *words: str) -> bool:
    return isinstance(expression, exp.Command) and str(expression.this).upper() in words
