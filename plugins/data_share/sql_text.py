"""
Names and values in SQL: names as a dataset file writes them, and names and values as SQL quotes them.

Snowflake stores a plain name in upper case, and a name in double quotes as it is. So does a dataset file mean it. What
goes to Snowflake is always in quotes: then a name may be a key word, and nobody folds it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_PLAIN = r"[A-Za-z_][A-Za-z0-9_$]*"
_QUOTED = r'"(?:[^"\x00-\x1f\x7f]|"")+"'
COLUMN_PATTERN = rf"^({_PLAIN}|{_QUOTED})$"
TABLE_PATTERN = rf"^(({_PLAIN}|{_QUOTED})\.){{0,2}}({_PLAIN}|{_QUOTED})$"

# What Unity Catalog allows in a name: all but points, blanks, slashes and control characters.
_SOURCE_CHARACTER = r"[^`./ \x00-\x1f\x7f]"
_SOURCE_PART = rf"(?:{_SOURCE_CHARACTER}+|`(?:{_SOURCE_CHARACTER}|``)+`)"
SOURCE_PATTERN = rf"^{_SOURCE_PART}\.{_SOURCE_PART}\.{_SOURCE_PART}$"

LONGEST_NAME = 255
"""Characters of the longest name, in Snowflake and in Unity Catalog."""


def column_name(text: str) -> str:
    """
    Return the name that Snowflake has for a column.

    :param text: the column in a dataset file: ``harbour`` is ``HARBOUR``, ``"Net price"`` is ``Net price``
    :raises ValueError: for a text that is neither a plain name nor one in double quotes
    """
    if not re.fullmatch(COLUMN_PATTERN, text):
        raise ValueError("""no plain name; any other name stands in double quotes, as in '"Net price"'""")
    return _stored(text)


def table_parts(text: str) -> list[str]:
    """
    Return the names that Snowflake has for a table and, where they are given, its database and schema.

    :param text: the table in a dataset file, e.g. ``sea.tides`` or ``sea."Tides 2026"``
    :raises ValueError: for a text that is no such name
    """
    if not re.fullmatch(TABLE_PATTERN, text):
        raise ValueError(
            "not of the form table, schema.table or database.schema.table; a name that is no plain one stands in "
            """double quotes, as in 'sea."Tides 2026"'"""
        )
    return [_stored(part) for part in re.findall(rf"{_PLAIN}|{_QUOTED}", text)]


def may_be_one_table(one: Sequence[str], other: Sequence[str]) -> bool:
    """
    Whether two names, in their :func:`table_parts`, may be those of one table.

    A database or a schema that a name leaves out may be any: only Snowflake knows what the connection has.
    """
    return all(left == right for left, right in zip(reversed(one), reversed(other), strict=False))


def source_name(text: str) -> str:
    """
    Return a table of Unity Catalog for SQL: with backticks around each name that needs them.

    :param text: ``catalog.schema.table``; a name may have its backticks already
    :raises ValueError: for a text that is no such name
    """
    if not re.fullmatch(SOURCE_PATTERN, text):
        raise ValueError(
            "not of the form catalog.schema.table; no name may hold a point, a blank, a slash or a control character, "
            "and one with a backtick stands in backticks"
        )
    parts = []
    for written in re.findall(_SOURCE_PART, text):
        part = written[1:-1].replace("``", "`") if written.startswith("`") else written
        if len(part) > LONGEST_NAME:
            raise ValueError(f"a name has more than {LONGEST_NAME} characters")
        parts.append(part if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part) else "`" + part.replace("`", "``") + "`")
    return ".".join(parts)


def quoted(name: str) -> str:
    """Return a name that Snowflake has for SQL."""
    return '"' + name.replace('"', '""') + '"'


def table_sql(text: str) -> str:
    """Return a table in a dataset file for SQL."""
    return ".".join(map(quoted, table_parts(text)))


def sql_string(value: object) -> str:
    """
    Return a value as a Snowflake string literal, or ``NULL``.

    For the few values that go into a request of several statements, which takes no bindings.
    """
    if value is None:
        return "NULL"
    # A backslash escapes in Snowflake, and what splits a file into statements does not know that it may escape itself.
    return " || CHR(92) || ".join("'" + part.replace("'", "''") + "'" for part in str(value).split("\\"))


def shown(name: str) -> str:
    """Return a name that Snowflake has for people: a plain one in small letters."""
    return name.lower() if re.fullmatch(r"[A-Z_][A-Z0-9_$]*", name) else name


def written(name: str) -> str:
    """Return a name that Snowflake has as a dataset file writes it."""
    return quoted(name) if (text := shown(name)) == name else text


def folded(name: str) -> str:
    """
    Return what names have in common that COPY INTO takes for the same, whatever their case is.

    How it folds letters beyond ASCII is not documented. They are left as they are: then a column is told to be missing
    rather than left empty.
    """
    return re.sub("[a-z]+", lambda letters: letters[0].upper(), name)


def alike(names: Iterable[str]) -> list[str]:
    """Return the names of which there is another one that differs by nothing but case."""
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(name.lower(), set()).add(name)
    return [name for group in groups.values() if len(group) > 1 for name in sorted(group)]


def _stored(text: str) -> str:
    name = text[1:-1].replace('""', '"') if text.startswith('"') else text.upper()
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a name has more than {LONGEST_NAME} characters")
    return name
