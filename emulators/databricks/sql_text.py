"""The texts of SQL statements: how they are divided, parsed, and where they name tables, versions and directories."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from emulators.databricks.errors import StatementError, syntax_error

# Stands for the history of a table where VERSION AS OF has a version.
_HISTORY = "_describe_history_"


# Every run of a job executes the same files.
_remembered = lru_cache(maxsize=1000)


@_remembered
def statements_of(sql: str) -> tuple[str, ...]:
    """Return the statements of a text, without the semicolons between them."""
    return tuple(_statements(sql))


def _statements(sql: str) -> Iterator[str]:
    begin: int | None = None
    end = 0
    for token in sqlglot.tokenize(sql, read="databricks"):
        if token.token_type != TokenType.SEMICOLON:
            begin = token.start if begin is None else begin
            end = token.end + 1
        elif begin is not None:
            yield sql[begin:end]
            begin = None
    if begin is not None:
        yield sql[begin:end]


@_remembered
def parsed(sql: str) -> exp.Expr:
    """
    Parse a statement. Who changes the answer makes a copy of it first: the next caller gets the same one.

    ``DESCRIBE HISTORY x`` becomes a query of x in the version :data:`_HISTORY`: sqlglot parses it only of plain names.
    """
    tokens = sqlglot.tokenize(sql, read="databricks")
    parts, written = [], 0
    if any(token.text == _HISTORY for token in tokens):
        raise syntax_error(_HISTORY, "the sandbox uses this name itself")
    for number, token in enumerate(tokens[:-2]):
        if token.token_type != TokenType.DESCRIBE or tokens[number + 1].text.upper() != "HISTORY":
            continue
        last, depth = number + 2, 0
        for last in range(number + 2, len(tokens)):
            depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(tokens[last].token_type, 0)
            following = tokens[last + 1].token_type if last + 1 < len(tokens) else None
            if (
                not depth
                and TokenType.DOT not in (following, tokens[last].token_type)
                and following != TokenType.L_PAREN
            ):
                break
        begin, end = tokens[number + 2].start, tokens[last].end + 1
        parts += [sql[written : token.start], f"SELECT * FROM {sql[begin:end]} VERSION AS OF {_HISTORY}"]
        written = end
    found = sqlglot.parse_one("".join([*parts, sql[written:]]), read="databricks")
    # Where each part stands in the text is asked by nobody, and doubles the time of each copy.
    for part in found.walk():
        part._meta = None
    return found


def directory_insert(sql: str) -> tuple[str, str]:
    """
    Return the directory and the query of an INSERT OVERWRITE DIRECTORY.

    sqlglot only parses Hive's form of the statement. A parameter marker as the directory needs runtime 18.
    """
    tokens = sqlglot.tokenize(sql, read="databricks")
    words = [token.text.upper() for token in tokens]
    if len(tokens) > 3 and tokens[3].token_type != TokenType.STRING:
        raise syntax_error(tokens[3].text, "the directory must be a literal")
    if words[4:5] != ["USING"]:
        near = tokens[4].text if len(tokens) > 4 else "end of input"
        raise syntax_error(near, "the sandbox executes only INSERT OVERWRITE DIRECTORY ... USING PARQUET SELECT")
    if words[5:6] != ["PARQUET"]:
        found = tokens[5].text if len(tokens) > 5 else "end of input"
        raise StatementError(f"[DATA_SOURCE_NOT_FOUND] Failed to find the data source: {found}. SQLSTATE: 42K02")
    if len(tokens) < 7:
        raise StatementError("[PARSE_SYNTAX_ERROR] Syntax error at or near end of input. SQLSTATE: 42601")
    return tokens[3].text, sql[tokens[6].start : tokens[-1].end + 1]


def written_name(table: exp.Table) -> str:
    """Return the name of a table as it is written, with its backticks."""
    return ".".join(part.sql("databricks") if part.args.get("quoted") else part.name for part in table.parts)


def is_history(table: exp.Table) -> bool:
    """Return whether a table of a parsed statement stands for the history of a table."""
    version = table.args.get("version")
    return version is not None and version.expression.name == _HISTORY


def version_of(table: exp.Table) -> int | None:
    """Return the literal of VERSION AS OF; no expression, marker or variable, which only newer runtimes take."""
    if (version := table.args.get("version")) is None:
        return None
    written = version.expression
    if version.name.upper() != "VERSION" or version.args["kind"] != "AS OF":
        raise syntax_error(version.name, "the sandbox knows only VERSION AS OF")
    if not isinstance(written, exp.Literal) or not re.fullmatch("[0-9]+", written.name):
        raise syntax_error(written.sql("databricks"), "VERSION AS OF takes a number that is written out")
    return int(written.name)
