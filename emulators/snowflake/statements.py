"""The text of a request as statements: their trees, and of which kind each is."""

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

# It warns of each statement that it only partly understands, and those are handled here.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

_READS = (exp.Query, exp.Show, exp.Describe, exp.Use, exp.Set, exp.ListStage)

_DDL = (exp.Create, exp.Drop, exp.Alter, exp.Comment, exp.Grant, exp.Revoke)

_DDL_COMMANDS = frozenset({"CREATE", "DROP", "ALTER", "GRANT", "REVOKE", "COMMENT"})

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


def locked_tables(expression: exp.Expr, session: Session) -> dict[ObjectName, Mode]:
    """
    The tables that the statement holds until its transaction ends, and how.

    :raises SqlError: if the session has no current database or schema to complete a name.
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
    # Behind its table, so that who waits for a table keeps nobody from another one.
    redefined = {session.qualified(table): Mode.REDEFINES for table in _redefined_tables(expression)}
    return {**redefined, CATALOGUE: Mode.REDEFINES}


def _redefined_tables(expression: exp.Expr) -> list[exp.Table]:
    """The tables that DDL makes, alters or drops."""
    if isinstance(expression, exp.Alter) and isinstance(expression.this, exp.Table):
        return [expression.this]
    return changed_tables(expression)
