"""The schema of an export, as its manifest has it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from data_share.failure_codes import FailureCode
from data_share.failures import ShareError


class UnreadableSchemaError(ShareError, AirflowFailException):
    """The manifest's schema cannot be told apart into columns."""

    code = FailureCode.SCHEMA_DRIFT


def exported_columns(column_types: str) -> dict[str, str]:
    """
    Return the columns of an export with their types, as ``TYPEOF`` writes them.

    :param column_types: ``{"names": ["a", "b,c"], "types": "struct<a:int,b,c:decimal(10,2)>"}``; the struct alone in a
        manifest of an export job that was deployed before
    :raises UnreadableSchemaError: neither of both, or a struct that can be read in two ways
    """
    if not column_types.startswith("{"):
        return struct_fields(column_types)
    try:
        schema: Any = json.loads(column_types)
        names, types = schema["names"], schema["types"]
    except (ValueError, KeyError) as error:
        raise _no_schema(column_types) from error
    if not (isinstance(names, list) and isinstance(types, str)):
        raise _no_schema(column_types)
    return dict(zip(names, _types_of(types, names), strict=True))


def _types_of(struct: str, names: Sequence[str]) -> list[str]:
    """
    The types in a struct whose names are known.

    Names are written as they are. Where a name looks like the end of a type, brackets that do not match tell the wrong
    reading from the right one.
    """
    if not (struct.startswith("struct<") and struct.endswith(">")):
        raise _no_schema(struct)
    for is_type in (_is_balanced_type, _is_type):
        # Where the types before can end -> these types; None if they can end there in two ways.
        ends: dict[int, list[str] | None] = {len("struct<") - 1: []}
        for number, name in enumerate(names):
            following = f",{names[number + 1]}:" if number + 1 < len(names) else ">"
            last = number + 1 == len(names)
            found: dict[int, list[str] | None] = {}
            for end, before in ends.items():
                begin = end + 1 + len(name) + 1
                if struct[end + 1 : begin] != f"{name}:":
                    continue
                for position in [len(struct) - 1] if last else _occurrences(struct, following, begin):
                    kind = struct[begin:position]
                    if is_type(kind):
                        found[position] = None if before is None or position in found else [*before, kind]
            ends = found
        if not names:
            ends = {len(struct) - 1: []} if struct == "struct<>" else {}
        if len(ends) == 1 and (types := next(iter(ends.values()))) is not None:
            return types
        if ends:
            break
    raise UnreadableSchemaError(
        f"The columns of the export cannot be told apart: {struct!r} with the columns {', '.join(map(repr, names))}. "
        "Rename the fields of structs whose names hold a comma, a colon or a bracket. The target is as it was."
    )


def _occurrences(text: str, part: str, begin: int) -> Iterator[int]:
    position = text.find(part, begin)
    while position >= 0:
        yield position
        position = text.find(part, position + 1)


_SIMPLE_TYPE = re.compile(r"[a-z][A-Za-z0-9_ ]*(\([^()<>]*\))?")
_NESTED_TYPE = re.compile(r"(array|map|struct)<.*>", re.DOTALL)


def _is_type(text: str) -> bool:
    return bool(_SIMPLE_TYPE.fullmatch(text) or _NESTED_TYPE.fullmatch(text))


def _is_balanced_type(text: str) -> bool:
    if not _is_type(text):
        return False
    depth = 0
    for character in text:
        depth += (character == "<") - (character == ">")
        if depth < 0:
            return False
    return depth == 0


# string, timestamp_ntz, decimal(10,2), map<string,int>, interval day to second
_KIND = re.compile(r"[a-z][A-Za-z0-9_ ]*([<(].*[>)])?")


def struct_fields(column_types: str) -> dict[str, str]:
    """
    Return names and types of the fields of a Spark struct type, without knowing the names.

    :param column_types: e.g. ``struct<a:int,b:decimal(10,2),c:struct<x:int>>``
    :raises UnreadableSchemaError: for a text that is no struct type, and for names that it cannot be read with: Spark
        writes them as they are, also when they hold a comma, a colon or a bracket
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
        f"The manifest's column_types is no schema: {column_types!r}. The target is as it was."
    )


def _not_one_field(field: str) -> UnreadableSchemaError:
    return UnreadableSchemaError(
        f"The columns of the export cannot be told apart: {field!r} is not one name with its type. Deploy the export "
        "job again: its manifest of today names the columns beside their types. The target is as it was."
    )
