"""Splits the text of a request into statements, parses them, and classifies them."""

from __future__ import annotations

import logging
import re
from typing import cast

import sqlglot
from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from emulators.snowflake import policies
from emulators.snowflake.errors import SqlError, syntax_error
from emulators.snowflake.locks import CATALOGUE, Mode
from emulators.snowflake.names import ObjectName
from emulators.snowflake.session import Session

# sqlglot warns of each statement that it understands only in part. The emulator handles these statements itself.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

_READS = (exp.Query, exp.Show, exp.Describe, exp.Use, exp.Set, exp.ListStage)

_DDL = (exp.Create, exp.Drop, exp.Alter, exp.Comment, exp.Grant, exp.Revoke)

_DDL_COMMANDS = frozenset({"CREATE", "DROP", "ALTER", "GRANT", "REVOKE", "COMMENT"})

_STATEMENTS = (
    *(*_READS, *_DDL, exp.DML, exp.Copy, exp.TruncateTable, exp.Transaction, exp.Commit, exp.Rollback),
    *(exp.Command, exp.MultitableInserts, exp.Put, exp.Get),
)


def split(sql: str) -> list[str]:
    """Return the statements of a text as they are written. A part that holds only comments is not a statement."""
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
    Parse a text that holds one statement.

    :raises SqlError: 1003 if the text is not a statement, 900 if it is empty, 8 if it holds several statements.
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
    # Without a space, sqlglot reads `?::` as another dialect's operator.
    expression = sqlglot.parse_one(_spaced(texts[0]), read="snowflake")
    if not isinstance(expression, _STATEMENTS):
        # sqlglot parses almost any words as an expression, such as a column name with an alias.
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
    Check the number of statements in a request.

    :param desired: the number that the client announced; 0 allows any number.
    :raises SqlError: 8 if the numbers differ.
    """
    if desired and actual != desired:
        raise SqlError(*_count_error(actual, desired))


def is_session(expression: exp.Expr) -> bool:
    """Return whether the statement changes only its session."""
    if isinstance(expression, exp.Command):
        return str(expression.this).upper() in {"SET", "UNSET"}
    return isinstance(expression, (exp.Use, exp.Set)) or (
        isinstance(expression, exp.Alter) and expression.args.get("kind") == "SESSION"
    )


def is_ddl(expression: exp.Expr) -> bool:
    """Return whether the statement is DDL, which commits the open transaction."""
    if is_session(expression):
        return False
    if isinstance(expression, exp.Command):
        return str(expression.this).upper() in _DDL_COMMANDS
    return isinstance(expression, _DDL)


def needs_transaction(expression: exp.Expr) -> bool:
    """Return whether the statement becomes several statements in DuckDB, which need a transaction to be atomic."""
    if isinstance(expression, exp.Insert):
        return bool(expression.args.get("overwrite"))
    return isinstance(expression, (exp.Copy, exp.TruncateTable))


def needs_warehouse(expression: exp.Expr) -> bool:
    """Return whether the statement needs a warehouse. Snowflake answers the others from its metadata."""
    if isinstance(expression, exp.Query):
        return expression.find(exp.Table) is not None
    if isinstance(expression, exp.Create):
        return isinstance(expression.expression, exp.Query)
    return isinstance(expression, (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Copy))


def wait_seconds(expression: exp.Expr) -> float | None:
    """Return the seconds of ``SELECT SYSTEM$WAIT(n)`` or ``CALL SYSTEM$WAIT(n)``; None for any other statement."""
    # To write a statement out takes longer than to look for tables, which this one has none of.
    if expression.find(exp.Table) is not None:
        return None
    match = re.fullmatch(r"(?:SELECT|CALL) SYSTEM\$WAIT\((\d+(?:\.\d+)?)\)", expression.sql("snowflake"), re.IGNORECASE)
    return float(match[1]) if match else None


def changed_tables(expression: exp.Expr) -> list[exp.Table]:
    """Return the tables that the statement creates, replaces, drops or truncates: their load metadata is deleted."""
    if isinstance(expression, exp.TruncateTable):
        return list(expression.expressions)
    if isinstance(expression, exp.Drop) and expression.args.get("kind") == "TABLE":
        return list(expression.args.get("tables") or [expression.this])
    if isinstance(expression, exp.Create) and expression.kind == "TABLE" and not expression.args.get("exists"):
        table = expression.find(exp.Table)
        return [table] if table else []
    return []


def locked_tables(expression: exp.Expr, session: Session) -> dict[ObjectName, Mode]:
    """
    Return the tables that the statement locks until its transaction ends, with the mode of each lock.

    :raises SqlError: if a name is incomplete and the session has no current database or schema.
    """
    if isinstance(expression, exp.Insert):
        mode = Mode.CHANGES if expression.args.get("overwrite") else Mode.INSERTS
        return {session.qualified(cast("exp.Table", expression.find(exp.Table))): mode}
    if isinstance(expression, exp.Copy):
        is_into_table = isinstance(expression.this, exp.Table) and not expression.this.name.startswith("@")
        return {session.qualified(expression.this): Mode.INSERTS} if is_into_table else {}
    if isinstance(expression, (exp.Update, exp.Delete, exp.Merge)):
        return {session.qualified(expression.this): Mode.CHANGES}
    if isinstance(expression, exp.TruncateTable):
        return {session.qualified(table): Mode.CHANGES for table in expression.expressions}
    if not is_ddl(expression):
        return {}
    # Lock the catalogue last: a statement that still waits for its table must not block DDL on other tables.
    redefined = {session.qualified(table): Mode.REDEFINES for table in _redefined_tables(expression)}
    return {**redefined, CATALOGUE: Mode.REDEFINES}


def _redefined_tables(expression: exp.Expr) -> list[exp.Table]:
    """Return the tables that DDL creates, alters or drops."""
    if isinstance(expression, exp.Alter) and isinstance(expression.this, exp.Table):
        return [expression.this]
    return changed_tables(expression)
