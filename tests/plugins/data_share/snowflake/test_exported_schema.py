"""The schema of an export, as its manifest has it: names that hold anything, and their types."""

from __future__ import annotations

import json

import pytest

from data_share.snowflake.exported_schema import UnreadableSchemaError, exported_columns


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"a": "int"},
        {
            "a:int,b": "decimal(10,2)",
            "c<": "int",
            "d>,e:": "string",
            "`": "date",
            "(": "int",
            '"': "int",
            "größe": "int",
        },
        {"s": "struct<odd, name:int,z:w,:array<int>>", "b": "int", "B": "date"},
    ],
)
def test_columns_are_told_apart_whatever_their_names_hold(fields: dict[str, str]) -> None:
    columns = json.dumps([{"name": name, "type": kind, "filled": "1"} for name, kind in fields.items()])
    assert exported_columns(columns) == fields
    assert list(exported_columns(columns)) == list(fields)


@pytest.mark.parametrize(
    "column_types",
    [
        *("", "int", "array<struct<a:int>>", "struct<a:int", "{}", "[", "[1]", '["a"]', '[{"name": "a"}]'),
        *('[{"name": "a", "type": null}]', '[{"name": ["a"], "type": "int"}]', '[{"name": 1, "type": "int"}]'),
    ],
)
def test_what_is_no_schema_is_refused(column_types: str) -> None:
    with pytest.raises(UnreadableSchemaError, match="The target is as it was"):
        exported_columns(column_types)


# ---- manifests of export jobs that were deployed before: the struct alone


@pytest.mark.parametrize(
    ("column_types", "fields"),
    [
        ("struct<>", {}),
        ("struct<a b:timestamp_ntz,c:interval day to second>", {"a b": "timestamp_ntz", "c": "interval day to second"}),
        ("struct<a:int,b:decimal(10,2)>", {"a": "int", "b": "decimal(10,2)"}),
        ("struct<m:map<string,array<int>>,b:date>", {"m": "map<string,array<int>>", "b": "date"}),
        ("struct<s:struct<x:int,y:struct<z:decimal(3,1)>>>", {"s": "struct<x:int,y:struct<z:decimal(3,1)>>"}),
    ],
)
def test_the_fields_of_a_struct_are_told_apart_at_its_own_level(column_types: str, fields: dict[str, str]) -> None:
    assert exported_columns(column_types) == fields
    assert list(exported_columns(column_types)) == list(fields)


# What Spark writes of the columns `b,c`, `,b`, `b<c`, `b:c`, `b(`, and of one without a name.
@pytest.mark.parametrize(
    "fields", ["b,c:int", ",b:int", "b<c:int,d:int", "b:c:int", "b(:int,d:int", ":int", "d:int,b<c:int"]
)
def test_columns_of_a_struct_alone_that_cannot_be_told_apart_are_refused(fields: str) -> None:
    with pytest.raises(UnreadableSchemaError, match="Deploy the asset bundle again"):
        exported_columns(f"struct<a:int,{fields},z:int>")
