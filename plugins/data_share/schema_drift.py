"""Comparing the columns of an export with those of its target."""

from __future__ import annotations

import re
from collections.abc import Sequence

from airflow.sdk.exceptions import AirflowFailException

from data_share.datasets import SchemaDrift
from data_share.failure_codes import FailureCode
from data_share.failures import ShareError
from data_share.names import LONGEST_NAME, alike, folded

# Spark's types, as TYPEOF writes them, and the Snowflake type of a column that is added for them.
_SNOWFLAKE_TYPES = {
    "boolean": "BOOLEAN",
    "tinyint": "NUMBER(38, 0)",
    "smallint": "NUMBER(38, 0)",
    "int": "NUMBER(38, 0)",
    "bigint": "NUMBER(38, 0)",
    "float": "DOUBLE",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "date": "DATE",
    "timestamp": "TIMESTAMP_LTZ",
    "timestamp_ntz": "TIMESTAMP_NTZ",
    "binary": "BINARY",
}


class SchemaDriftError(ShareError, AirflowFailException):
    """The columns of the export are not those of the target."""

    code = FailureCode.SCHEMA_DRIFT


def columns_to_add(
    column_types: str | None, target_columns: Sequence[str], policy: SchemaDrift, target_table: str
) -> dict[str, str]:
    """
    Compare an export with its target and return the columns to add to the target, with their Snowflake types.

    :param column_types: the manifest's schema, e.g. ``struct<date:date,latitude:double>``; None for an empty export
    :param target_columns: the target's column names
    :param policy: the dataset's policy for new columns
    :param target_table: the target, for the message
    :raises SchemaDriftError: for a missing column, and for what the policy does not allow
    """
    if column_types is None:
        return {}
    exported = struct_fields(column_types)
    for table, columns in (("the export", exported), (target_table, target_columns)):
        if same := alike(columns):
            raise SchemaDriftError(
                f"The columns {', '.join(same)} of {table} differ only by case, and COPY INTO does not tell them "
                "apart. Rename one of them. The target is as it was."
            )
    known, found = {folded(column) for column in target_columns}, {folded(column) for column in exported}
    missing = sorted(column for column in target_columns if folded(column) not in found)
    new = {column: kind for column, kind in exported.items() if folded(column) not in known}
    problems = []
    if missing:
        problems.append(f"the export lacks {', '.join(missing)}")
    if new and policy is SchemaDrift.STRICT:
        listed = ", ".join(f"{column} ({kind})" for column, kind in new.items())
        problems.append(f"the export has {listed}, which {target_table} does not have")
    if problems:
        raise SchemaDriftError(
            f"The columns of the export are not those of the target: {'; '.join(problems)}. The target is as it was."
        )
    if policy is SchemaDrift.IGNORE_NEW:
        return {}
    unsafe = [column for column in new if len(column) > LONGEST_NAME or not column.isprintable()]
    if unsafe:
        raise SchemaDriftError(
            f"Columns with such names are not added to {target_table}: {', '.join(map(repr, unsafe))}. "
            "The target is as it was."
        )
    # A plain name is stored as Snowflake stores plain names: nobody has to put it in quotes.
    return {
        column.upper() if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", column) else column: snowflake_type(kind)
        for column, kind in new.items()
    }


# string, timestamp_ntz, decimal(10,2), map<string,int>, interval day to second
_KIND = re.compile(r"[a-z][A-Za-z0-9_ ]*([<(].*[>)])?")


def struct_fields(column_types: str) -> dict[str, str]:
    """
    Return names and types of the fields of a Spark struct type.

    :param column_types: e.g. ``struct<a:int,b:decimal(10,2),c:struct<x:int>>``
    :raises SchemaDriftError: for a text that is no struct type, and for names that it cannot be read with: Spark writes
        them as they are, also when they hold a comma, a colon or a bracket
    """
    if not (column_types.startswith("struct<") and column_types.endswith(">")):
        raise SchemaDriftError(f"The manifest's column_types is not a struct: {column_types!r}.")
    fields: dict[str, str] = {}
    depth, begin, end = 0, len("struct<"), len(column_types) - 1
    for position in range(begin, end + 1):
        character = column_types[position]
        if character in "<(":
            depth += 1
        elif character in ">)" and depth:
            depth -= 1
        elif (character == "," and not depth) or (position == end and begin < end):
            name, _, kind = column_types[begin:position].partition(":")
            if not (name and _KIND.fullmatch(kind)):
                raise _unreadable(column_types[begin:position])
            fields[name] = kind
            begin = position + 1
    if begin < end:
        raise _unreadable(column_types[begin:end])
    return fields


def _unreadable(field: str) -> SchemaDriftError:
    return SchemaDriftError(
        f"The columns of the export cannot be told apart: {field!r} is not one name with its type. Rename the columns "
        "whose names hold a comma, a colon or a bracket. The target is as it was."
    )


def snowflake_type(kind: str) -> str:
    """Return the Snowflake type of a Spark type; VARIANT for arrays, maps and structs."""
    if decimal := re.fullmatch(r"decimal\((\d+),(\d+)\)", kind):
        return f"NUMBER({decimal[1]}, {decimal[2]})"
    return _SNOWFLAKE_TYPES.get(kind, "VARIANT")
