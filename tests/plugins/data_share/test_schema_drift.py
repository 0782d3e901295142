"""The columns of an export against those of its target: what is added, what is left out, what is refused."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from data_share.datasets import SchemaDrift
from data_share.schema_drift import SchemaDriftError, columns_to_add, snowflake_type, struct_fields

TARGET = ["HARBOUR", "DEPTH"]
SAME = "struct<harbour:string,depth:double>"
MORE = "struct<harbour:string,depth:double,salinity:decimal(5,2),buoys:array<struct<id:int,name:string>>>"


def added(column_types: str | None, policy: SchemaDrift = SchemaDrift.STRICT) -> dict[str, str]:
    return columns_to_add(column_types, TARGET, policy, "tides")


def refusal(column_types: str | None, policy: SchemaDrift = SchemaDrift.STRICT) -> str:
    with pytest.raises(SchemaDriftError) as caught:
        added(column_types, policy)
    assert "The target is as it was." in str(caught.value)
    return str(caught.value)


# ---- policies


def test_the_same_columns_in_any_order_and_case_add_nothing() -> None:
    for column_types in (SAME, "struct<depth:double,harbour:string>", "struct<Harbour:string,DEPTH:double>"):
        for policy in SchemaDrift:
            assert added(column_types, policy) == {}


def test_new_columns_are_refused_with_their_types_by_default() -> None:
    message = refusal(MORE, SchemaDrift.STRICT)
    assert "salinity (decimal(5,2)), buoys (array<struct<id:int,name:string>>), which tides does not have" in message
    assert "schema_drift" in message
    assert "depth" not in message


def test_new_columns_are_added_with_their_types_as_snowflake_spells_them() -> None:
    assert added(MORE, SchemaDrift.ADD_NEW) == {"SALINITY": "NUMBER(5, 2)", "BUOYS": "VARIANT"}


def test_missing_and_new_columns_are_told_together() -> None:
    message = refusal("struct<harbour:string,salinity:double>")
    assert "the export lacks DEPTH; the export has salinity (double)" in message


def test_a_column_with_an_unsafe_name_is_never_added() -> None:
    for name in ("a b", 'a"b', "1a", "größe", "a-b", "a;DROP TABLE x", "x" * 256):
        column_types = f"struct<harbour:string,depth:double,{name}:int>"
        assert repr(name) in refusal(column_types, SchemaDrift.ADD_NEW)
        assert added(column_types, SchemaDrift.IGNORE_NEW) == {}


def test_other_columns_do_not_come_right_with_another_attempt() -> None:
    assert issubclass(SchemaDriftError, AirflowFailException)


# ---- the types of Spark


FIELDS: dict[str, dict[str, str]] = {
    "struct<>": {},
    "struct<a:int>": {"a": "int"},
    "struct<a b:timestamp_ntz,c:interval day to second>": {"a b": "timestamp_ntz", "c": "interval day to second"},
    "struct<a:string collate UTF8_LCASE,b:varchar(3)>": {"a": "string collate UTF8_LCASE", "b": "varchar(3)"},
    "struct<a:int,b:decimal(10,2)>": {"a": "int", "b": "decimal(10,2)"},
    "struct<a:decimal(10,2),b:int>": {"a": "decimal(10,2)", "b": "int"},
    "struct<a:array<int>>": {"a": "array<int>"},
    "struct<m:map<string,array<int>>,b:date>": {"m": "map<string,array<int>>", "b": "date"},
    "struct<s:struct<x:int,y:struct<z:decimal(3,1)>>>": {"s": "struct<x:int,y:struct<z:decimal(3,1)>>"},
}


def test_the_fields_of_a_struct_are_told_apart_at_its_own_level() -> None:
    found = {column_types: struct_fields(column_types) for column_types in FIELDS}
    assert found == FIELDS
    assert [list(fields) for fields in found.values()] == [list(fields) for fields in FIELDS.values()]


def test_columns_that_cannot_be_told_apart_are_refused() -> None:
    # What Spark writes of the columns `b,c`, `,b`, `b<c`, `b:c`, `b(`, and of one without a name.
    for fields in ("b,c:int", ",b:int", "b<c:int,d:int", "b:c:int", "b(:int,d:int", ":int", "d:int,b<c:int"):
        with pytest.raises(SchemaDriftError, match="cannot be told apart"):
            struct_fields(f"struct<a:int,{fields},z:int>")


def test_what_is_no_struct_is_refused() -> None:
    for column_types in ("", "int", "array<struct<a:int>>", "struct<a:int"):
        with pytest.raises(SchemaDriftError, match="not a struct"):
            struct_fields(column_types)


def test_each_type_has_one_that_holds_its_values() -> None:
    types = {
        "boolean": "BOOLEAN",
        "tinyint": "NUMBER(38, 0)",
        "bigint": "NUMBER(38, 0)",
        "float": "DOUBLE",
        "double": "DOUBLE",
        "decimal(38,18)": "NUMBER(38, 18)",
        "string": "VARCHAR",
        "date": "DATE",
        "timestamp": "TIMESTAMP_LTZ",
        "timestamp_ntz": "TIMESTAMP_NTZ",
        "binary": "BINARY",
        "array<int>": "VARIANT",
        "map<string,int>": "VARIANT",
        "struct<a:decimal(10,2)>": "VARIANT",
        "a type of tomorrow": "VARIANT",
    }
    assert {spark: snowflake_type(spark) for spark in types} == types
