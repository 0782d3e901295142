"""Names of objects: read from the text of a statement, where they are upper case unless quoted."""

from __future__ import annotations

import re

from sqlglot import exp

ObjectName = tuple[str, str, str]
"""Database, schema and name of a table or a stage."""

NAME = r'((?:"(?:[^"]|"")+"|[\w$]+)(?:\.(?:"(?:[^"]|"")+"|[\w$]+))*)'
"""Matches a name in the text of a statement, with or without quotes, database and schema."""

_SAME_KIND = {"VIEW": "TABLE", "STORAGE INTEGRATION": "INTEGRATION"}


def normal(name: str) -> str:
    """Return a name from the text of a statement as Snowflake stores it: upper case unless quoted."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.upper()


def name_of(identifier: exp.Expr) -> str:
    """Return an identifier's name as Snowflake stores it: upper case unless quoted."""
    if isinstance(identifier, exp.Table):
        return ".".join(name_of(part) for part in identifier.parts)
    quoted = isinstance(identifier, exp.Identifier) and identifier.quoted
    return identifier.name if quoted else identifier.name.upper()


def plain_kind(kind: str) -> str:
    """Return the kind under which an object is stored: views share their names with tables, so a view is a TABLE."""
    return _SAME_KIND.get(kind, kind)


def key(kind: str, *parts: str) -> str:
    """Return an object's kind and full name as one text, for example ``TABLE:DB.SCHEMA.T``."""
    quoted = (part if re.fullmatch(r"[\w$]+", part) else f'"{part}"' for part in parts)
    return f"{plain_kind(kind)}:{'.'.join(quoted)}"


def described_integration(expression: exp.Expr) -> str | None:
    """Return the integration that DESCRIBE INTEGRATION names; None for any other statement."""
    kinds = {"INTEGRATION", "STORAGE INTEGRATION"}
    describes_integration = isinstance(expression, exp.Describe) and str(expression.args.get("kind")).upper() in kinds
    return name_of(expression.this) if describes_integration else None


def stage_and_path(source: exp.Expr) -> tuple[exp.Table, str] | None:
    """Return the stage that a FROM clause or LIST names, and the path below the stage; None if it names no stage."""
    text = source.this.name if isinstance(source, (exp.Table, exp.ListStage)) else ""
    if not text.startswith("@"):
        return None
    stage, _, path = text[1:].partition("/")
    return exp.to_table(stage, dialect="snowflake"), path
