"""Names of objects as the text of a statement has them: upper case unless quoted."""

from __future__ import annotations

import re

from sqlglot import exp

ObjectName = tuple[str, str, str]
"""Database, schema and name of a table or a stage."""

NAME = r'((?:"(?:[^"]|"")+"|[\w$]+)(?:\.(?:"(?:[^"]|"")+"|[\w$]+))*)'
"""A name in the text of a statement, perhaps in quotes and with its database and schema."""

_SAME_KIND = {"VIEW": "TABLE", "STORAGE INTEGRATION": "INTEGRATION"}


def normal(name: str) -> str:
    """A name in the text of a statement as Snowflake stores it: upper case unless it is in quotes."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.upper()


def name_of(identifier: exp.Expr) -> str:
    """An identifier's name as Snowflake stores it: upper case unless it was quoted."""
    if isinstance(identifier, exp.Table):
        return ".".join(name_of(part) for part in identifier.parts)
    quoted = isinstance(identifier, exp.Identifier) and identifier.quoted
    return identifier.name if quoted else identifier.name.upper()


def plain_kind(kind: str) -> str:
    """The kind of an object by its one name: a view has its name among the tables'."""
    return _SAME_KIND.get(kind, kind)


def key(kind: str, *parts: str) -> str:
    """An object's kind and full name as one text, for example ``TABLE:DB.SCHEMA.T``."""
    quoted = (part if re.fullmatch(r"[\w$]+", part) else f'"{part}"' for part in parts)
    return f"{plain_kind(kind)}:{'.'.join(quoted)}"


def described_integration(expression: exp.Expr) -> str | None:
    """The integration that the statement describes, or None for any other statement."""
    kinds = {"INTEGRATION", "STORAGE INTEGRATION"}
    is_one = isinstance(expression, exp.Describe) and str(expression.args.get("kind")).upper() in kinds
    return name_of(expression.this) if is_one else None


def stage_and_path(source: exp.Expr) -> tuple[exp.Table, str] | None:
    """The stage of a FROM clause or of LIST and the path behind it, or None if it is no stage."""
    text = source.this.name if isinstance(source, (exp.Table, exp.ListStage)) else ""
    if not text.startswith("@"):
        return None
    stage, _, path = text[1:].partition("/")
    return exp.to_table(stage, dialect="snowflake"), path
