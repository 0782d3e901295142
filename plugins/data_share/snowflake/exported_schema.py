"""Reads the schema of an export from its manifest."""

from __future__ import annotations

import json
import re
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError

_DEPLOY_AGAIN = (
    "Deploy the asset bundle again, whose SQL names the columns beside their types, and start a sync without "
    "reload_run_key."
)


class UnreadableSchemaError(ShareError, AirflowFailException):
    """The manifest's schema cannot be split into columns."""

    code = FailureCode.SCHEMA_DRIFT


def exported_columns(column_types: str) -> dict[str, str]:
    """
    Return the columns of an export with their types, as ``TYPEOF`` writes them.

    :param column_types: ``[{"name": "a", "type": "int"}, {"name": "b,c", "type": "decimal(10,2)"}]``; an older version
        of the export job writes ``struct<a:int,b:decimal(10,2)>``
    :raises UnreadableSchemaError: the text has neither form, or is an ambiguous struct
    """
    if not column_types.startswith("["):
        return struct_fields(column_types)
    try:
        columns: dict[Any, Any] = {column["name"]: column["type"] for column in json.loads(column_types)}
    except (ValueError, KeyError, TypeError) as error:
        raise _no_schema(column_types) from error
    if not all(isinstance(text, str) for column in columns.items() for text in column):
        raise _no_schema(column_types)
    return columns


def without_column(column_types: str, name: str) -> str:
    """Return a schema without a column, whose name ignores case."""
    return json.dumps([column for column in json.loads(column_types) if column["name"].upper() != name])


# E.g. string, timestamp_ntz, decimal(10,2), map<string,int>, interval day to second.
_KIND = re.compile(r"[a-z][A-Za-z0-9_ ]*([<(].*[>)])?")


def struct_fields(column_types: str) -> dict[str, str]:
    """
    Return the names and types of the fields of a Spark struct type.

    :param column_types: e.g. ``struct<a:int,b:decimal(10,2),c:struct<x:int>>``
    :raises UnreadableSchemaError: the text is no struct type, or a name makes it ambiguous: Spark does not quote
        names, even those with a comma, a colon or a bracket
    """
    if not (column_types.startswith("struct<") and column_types.endswith(">")):
        raise _no_schema(column_types)
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
                raise _not_one_field(column_types[begin:position])
            fields[name] = kind
            begin = position + 1
    if begin < end:
        raise _not_one_field(column_types[begin:end])
    return fields


def _no_schema(column_types: str) -> UnreadableSchemaError:
    return UnreadableSchemaError(
        f"The manifest's column_types is no schema: {column_types!r}. The target is as it was.",
        what_to_do=_DEPLOY_AGAIN,
    )


def _not_one_field(field: str) -> UnreadableSchemaError:
    return UnreadableSchemaError(
        f"The manifest's column_types cannot be split into columns: {field!r} is not one name with one type. The "
        "target is as it was.",
        what_to_do=_DEPLOY_AGAIN,
    )
