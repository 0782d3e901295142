"""Comparing the columns of an export with those of its target."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from airflow.sdk.exceptions import AirflowFailException

from data_share.datasets import SchemaDrift
from data_share.failure_codes import FailureCode
from data_share.failures import ShareError

_SAFE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")

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
    column_types: str | None,
    target_columns: Sequence[str],
    policy: SchemaDrift,
    target_table: str,
    *,
    needed: Collection[str] = (),
    is_reload: bool = False,
) -> dict[str, str]:
    """
    Compare an export with its target and return the columns to add to the target, with their Snowflake types.

    :param column_types: the manifest's schema, e.g. ``struct<date:date,latitude:double>``; None for an empty export
    :param target_columns: the target's column names
    :param policy: the dataset's policy for new columns
    :param target_table: the target, for the message
    :param needed: the dataset's required columns and merge keys, for the advice
    :param is_reload: whether the export is that of an earlier sync, for the advice: no change of the source helps it
    :raises SchemaDriftError: for a missing column, and for what the policy does not allow
    """
    if column_types is None:
        return {}
    exported = struct_fields(column_types)
    known = {column.upper() for column in target_columns}
    missing = sorted(known - {column.upper() for column in exported})
    new = {column: kind for column, kind in exported.items() if column.upper() not in known}
    unsafe = [column for column in new if not _SAFE_NAME.fullmatch(column)]
    problems = []
    advice = []
    if missing:
        problems.append(f"the export lacks {', '.join(missing)}")
        advice += _advice_for_missing(missing, new, target_table, needed, is_reload)
    if new and policy is SchemaDrift.STRICT:
        listed = ", ".join(f"{column} ({kind})" for column, kind in new.items())
        problems.append(f"the export has {listed}, which {target_table} does not have")
        # A name that is not safe is not added: then this policy would fail as well.
        adds = "" if unsafe else f" add_new adds new columns to {target_table};"
        advice.append(f"Set schema_drift in the dataset file:{adds} ignore_new leaves them out.")
    if problems:
        raise SchemaDriftError(
            f"The columns of the export are not those of the target: {'; '.join(problems)}. The target is as it was.",
            what_to_do=f"{' '.join(advice)} Then start the sync again.",
        )
    if policy is SchemaDrift.IGNORE_NEW:
        return {}
    if unsafe:
        raise SchemaDriftError(
            f"Columns with such names are not added to {target_table}: {', '.join(map(repr, unsafe))}. "
            "The target is as it was.",
            what_to_do="Set schema_drift: ignore_new in the dataset file, which leaves new columns out"
            f"{'' if is_reload else ', or rename these in the source'}. Then start the sync again.",
        )
    return {column.upper(): snowflake_type(kind) for column, kind in new.items()}


def _advice_for_missing(
    missing: Sequence[str], new: Collection[str], target_table: str, needed: Collection[str], is_reload: bool
) -> list[str]:
    """Return what helps against columns that the export lacks; no policy does."""
    columns = ", ".join(missing)
    advice = [
        f"This is the export of an earlier sync: start one without reload_run_key, or take {columns} out of "
        f"{target_table} (ALTER TABLE ... DROP COLUMN)."
        if is_reload
        else f"Bring {columns} back in the source, or take it out of {target_table} (ALTER TABLE ... DROP COLUMN)."
    ]
    known = {column.upper() for column in needed}
    if also := [column for column in missing if column in known]:
        advice.append(
            f"With that, {', '.join(also)} must leave required_columns and merge_keys in the dataset file too."
        )
    if new:
        advice.append(
            "A column that was renamed in the source is renamed in the target (ALTER TABLE ... RENAME COLUMN)."
        )
    return advice


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
        raise SchemaDriftError(
            f"The manifest's column_types is not a struct: {column_types!r}.",
            what_to_do="Deploy the asset bundle again, and start the sync again: its SQL writes the manifest.",
        )
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
        f"The columns of the export cannot be told apart: {field!r} is not one name with its type. The target is as it "
        "was.",
        what_to_do="In the source, rename the columns whose names hold a comma, a colon or a bracket. Then start the "
        "sync again.",
    )


def snowflake_type(kind: str) -> str:
    """Return the Snowflake type of a Spark type; VARIANT for arrays, maps and structs."""
    if decimal := re.fullmatch(r"decimal\((\d+),(\d+)\)", kind):
        return f"NUMBER({decimal[1]}, {decimal[2]})"
    return _SNOWFLAKE_TYPES.get(kind, "VARIANT")
