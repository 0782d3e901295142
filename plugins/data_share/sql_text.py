"""
Names and values in SQL: names as a dataset file writes them, and names and values as SQL quotes them.

Snowflake stores a plain name in upper case, and a name in double quotes unchanged. Names in a dataset file mean the
same. This package always sends names in quotes: so a name may be a key word, and Snowflake does not change its case.

"Stored name" below is a name as Snowflake stores it: ``HARBOUR`` for ``harbour``, ``Net price`` for ``"Net price"``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_PLAIN = r"[A-Za-z_][A-Za-z0-9_$]*"
_QUOTED = r'"(?:[^"\x00-\x1f\x7f]|"")+"'
COLUMN_PATTERN = rf"^({_PLAIN}|{_QUOTED})$"
TABLE_PATTERN = rf"^(({_PLAIN}|{_QUOTED})\.){{0,2}}({_PLAIN}|{_QUOTED})$"

# Unity Catalog allows every character in a name but dots, blanks, slashes and control characters.
_SOURCE_CHARACTER = r"[^`./ \x00-\x1f\x7f]"
_SOURCE_PART = rf"(?:{_SOURCE_CHARACTER}+|`(?:{_SOURCE_CHARACTER}|``)+`)"
SOURCE_PATTERN = rf"^{_SOURCE_PART}\.{_SOURCE_PART}\.{_SOURCE_PART}$"

# Compiled here: this module is imported once, in the processes that fork the steps, and a compilation takes long.
_COLUMN = re.compile(COLUMN_PATTERN)
_TABLE = re.compile(TABLE_PATTERN)
_TABLE_PART = re.compile(rf"{_PLAIN}|{_QUOTED}")
_SOURCE = re.compile(SOURCE_PATTERN)

TEMPLATE = re.compile(r"\{\{|\{%|\{#")
"""What begins a template: Airflow renders the parameters of the export job, and Databricks replaces references."""

MAX_NAME_CHARACTERS = 255
"""Max. length of a name, in Snowflake and in Unity Catalog."""


def column_name(text: str) -> str:
    """
    Return the stored name of a column.

    :param text: the column in a dataset file: ``harbour`` is ``HARBOUR``, ``"Net price"`` is ``Net price``
    :raises ValueError: for a text that is neither a plain name nor one in double quotes
    """
    if not _COLUMN.fullmatch(text):
        raise ValueError("""no plain name; put any other name in double quotes, as in '"Net price"'""")
    return _stored(text)


def table_parts(text: str) -> list[str]:
    """
    Return the stored names of a table and, if given, of its database and schema.

    :param text: the table in a dataset file, e.g. ``sea.tides`` or ``sea."Tides 2026"``
    :raises ValueError: for a text that is no such name
    """
    if not _TABLE.fullmatch(text):
        raise ValueError(
            "not of the form table, schema.table or database.schema.table; put a name that is not plain in double "
            """quotes, as in 'sea."Tides 2026"'"""
        )
    return [_stored(part) for part in _TABLE_PART.findall(text)]


def may_be_one_table(one: Sequence[str], other: Sequence[str]) -> bool:
    """
    Return whether two names, given as :func:`table_parts`, may mean the same table.

    An omitted database or schema may be any: only Snowflake knows the connection's.
    """
    return all(left == right for left, right in zip(reversed(one), reversed(other), strict=False))


def source_name(text: str) -> str:
    """
    Return a table of Unity Catalog for SQL: with backticks around each name that needs them.

    :param text: ``catalog.schema.table``; a name may have its backticks already
    :raises ValueError: for a text that is no such name
    """
    if not _SOURCE.fullmatch(text):
        raise ValueError(
            "not of the form catalog.schema.table; a name must not contain a dot, a blank, a slash or a control "
            "character, and a name that contains a backtick must be in backticks"
        )
    if wrong := TEMPLATE.search(text):
        raise ValueError(f"contains {wrong[0]}, which Airflow or Databricks would replace; export a view instead")
    parts = []
    for written in re.findall(_SOURCE_PART, text):
        part = written[1:-1].replace("``", "`") if written.startswith("`") else written
        if len(part) > MAX_NAME_CHARACTERS:
            raise ValueError(f"a name has more than {MAX_NAME_CHARACTERS} characters")
        parts.append(part if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part) else "`" + part.replace("`", "``") + "`")
    return ".".join(parts)


def quoted(name: str) -> str:
    """Return a stored name in quotes, for SQL."""
    return '"' + name.replace('"', '""') + '"'


def table_sql(text: str) -> str:
    """Return the table of a dataset file in quotes, for SQL."""
    return ".".join(map(quoted, table_parts(text)))


def sql_string(value: object) -> str:
    """
    Return a value as a Snowflake string literal, or ``NULL``.

    Used only in requests of several statements, which accept no bindings.
    """
    if value is None:
        return "NULL"
    # CHR(92) for a backslash: Snowflake reads it as an escape character, and splitters of SQL files misread "\\".
    return " || CHR(92) || ".join("'" + part.replace("'", "''") + "'" for part in str(value).split("\\"))


def shown(name: str) -> str:
    """Return a stored name for people: a plain name in lower case, any other name unchanged."""
    return name.lower() if re.fullmatch(r"[A-Z_][A-Z0-9_$]*", name) else name


def written(name: str) -> str:
    """Return a stored name as a dataset file writes it."""
    return quoted(name) if (text := shown(name)) == name else text


def folded(name: str) -> str:
    """
    Return a name with ASCII letters in upper case: COPY INTO matches names for which this is equal.

    Snowflake does not document how COPY INTO folds other letters. They are left unchanged: so in doubt a column is
    reported as missing instead of being left empty.
    """
    return re.sub("[a-z]+", lambda letters: letters[0].upper(), name)


def alike(names: Iterable[str]) -> list[str]:
    """Return the names that differ from another of these names only by case."""
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(name.lower(), set()).add(name)
    return [name for group in groups.values() if len(group) > 1 for name in sorted(group)]


def _stored(text: str) -> str:
    name = text[1:-1].replace('""', '"') if text.startswith('"') else text.upper()
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(f"a name has more than {MAX_NAME_CHARACTERS} characters")
    return name
