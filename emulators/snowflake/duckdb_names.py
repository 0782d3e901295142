"""
Names of tables and columns in DuckDB, which does not tell them by their case.

A name that holds small letters has another one there: itself, and behind it which letters are small. Wherever a name
leaves the emulator, in a result or in the words of an error, that is taken off again.
"""

from __future__ import annotations

import re

_MARK = "\ufdd1"
"""No character: Unicode keeps it for what a program needs for itself."""


def inner(name: str) -> str:
    """The name in DuckDB: names that differ by case alone are different ones there as well."""
    small = sum(1 << place for place, letter in enumerate(name) if "a" <= letter <= "z")
    return f"{name}{_MARK}{small:x}" if small and _MARK not in name else name


def outer(text: str) -> str:
    """A name, or a message with names in it, as Snowflake has it."""
    return re.sub(f"{_MARK}[0-9a-f]+", "", text)


def in_duckdb(*parts: str) -> str:
    """A full name in DuckDB's SQL. The last part is a table or a column, the ones before it keep their names."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in (*parts[:-1], inner(parts[-1])))
