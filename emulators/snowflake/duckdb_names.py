"""
Names of tables and columns in DuckDB, which ignores their case: to DuckDB, `Id` and `ID` are the same column.

In DuckDB, a name with lower-case letters gets a suffix that says which letters are in lower case. The suffix is removed
again wherever a name leaves the emulator: in a result or in an error message.
"""

from __future__ import annotations

import re

_MARK = "\ufdd1"
"""Starts the suffix. No real name contains it: it is a Unicode noncharacter, reserved for use inside a program."""


def to_duckdb(name: str) -> str:
    """Return the name that DuckDB stores. Names that differ only in case stay different."""
    lower = sum(1 << place for place, letter in enumerate(name) if "a" <= letter <= "z")
    return f"{name}{_MARK}{lower:x}" if lower and _MARK not in name else name


def to_snowflake(text: str) -> str:
    """Return a name, or a message that contains names, without the suffixes: as Snowflake writes it."""
    return re.sub(f"{_MARK}[0-9a-f]+", "", text)


def quoted_for_duckdb(*parts: str) -> str:
    """Return a full name, quoted for DuckDB's SQL. Only the last part, a table or a column, can get a suffix."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in (*parts[:-1], to_duckdb(parts[-1])))
