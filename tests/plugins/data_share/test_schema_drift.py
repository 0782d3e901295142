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


@pytest.mark.parametrize("policy", list(SchemaDrift))
@pytest.mark.parametrize(
    "column_types", [SAME, "struct<depth:double,harbour:string>", "struct<Harbour:string,DEPTH:double>", None]
)
def test_the_same_columns_in_any_order_and_case_add_nothing(column_types: str | None, policy: SchemaDrift) -> None:
    # None: an export without a row says nothing of its columns.
    assert added(column_types, policy) == {}


def test_new_columns_are_refused_with_their_types_by_default() -> None:
    message = refusal(MORE, SchemaDrift.STRICT)
    assert "salinity (decimal(5,2)), buoys (array<struct<id:int,name:string>>), which tides does not have" in message
    assert "schema_drift" in message
    assert "depth" not in message


def test_new_columns_are_left_out_when_they_are_to_be_ignored() -> None:
    assert added(MORE, SchemaDrift.IGNORE_NEW) == {}


def test_new_columns_are_added_with_their_types_as_snowflake_spells_them() -> None:
    assert added(MORE, SchemaDrift.ADD_NEW) == {"SALINITY": "NUMBER(5, 2)", "BUOYS": "VARIANT"}


@pytest.mark.parametrize("policy", list(SchemaDrift))
def test_a_missing_column_is_refused_by_every_policy(policy: SchemaDrift) -> None:
    assert "the export lacks DEPTH, HARBOUR" in refusal("struct<salinity:double>", policy)


def test_missing_and_new_columns_are_told_together() -> None:
    message = refusal("struct<harbour:string,salinity:double>")
    assert "the export lacks DEPTH; the export has salinity (double)" in message


@pytest.mark.parametrize("name", ["a b", 'a"b', "1a", "größe", "a-b", "a;DROP TABLE x", "x" * 255])
def test_a_column_whose_name_is_no_plain_one_is_added_under_its_own_name(name: str) -> None:
    expected = {name.upper() if name.isidentifier() and name.isascii() else name: "NUMBER(38, 0)"}
    assert added(f"struct<harbour:string,depth:double,{name}:int>", SchemaDrift.ADD_NEW) == expected


@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "x" * 256])
def test_a_column_with_a_name_that_nobody_can_write_is_never_added(name: str) -> None:
    column_types = f"struct<harbour:string,depth:double,{name}:int>"
    assert repr(name) in refusal(column_types, SchemaDrift.ADD_NEW)
    assert added(column_types, SchemaDrift.IGNORE_NEW) == {}


# ---- names


def compared(exported: str, target: list[str], policy: SchemaDrift = SchemaDrift.STRICT) -> dict[str, str]:
    return columns_to_add(f"struct<{exported}>", target, policy, "tides")


@pytest.mark.parametrize("policy", list(SchemaDrift))
def test_names_of_the_target_stay_as_they_are_and_match_in_any_case(policy: SchemaDrift) -> None:
    exported = "id:int,OBSERVEDAT:date,net price:double,größe:int"
    assert compared(exported, ["id", "observedAt", "Net price", "größe"], policy) == {}
    with pytest.raises(SchemaDriftError, match="the export lacks observedAt"):
        compared("id:int", ["id", "observedAt"], policy)


def test_letters_beyond_ascii_match_as_they_are() -> None:
    # How COPY INTO folds them is not documented. A column that it does not match would be left empty.
    with pytest.raises(SchemaDriftError, match="the export lacks GRÖSSE; the export has größe"):
        compared("größe:int", ["GRÖSSE"])
    with pytest.raises(SchemaDriftError, match="the export lacks Ä"):
        compared("ä:int", ["Ä"])


@pytest.mark.parametrize("policy", list(SchemaDrift))
@pytest.mark.parametrize(
    ("exported", "target", "words"),
    [
        ("id:int,Id:int", ["ID"], "The columns Id, id of the export differ only by case"),
        ("ä:int,Ä:int", ["ä"], "The columns Ä, ä of the export differ only by case"),
        ("id:int", ["id", "ID"], "The columns ID, id of tides differ only by case"),
    ],
)
def test_columns_that_differ_only_by_case_are_refused(
    exported: str, target: list[str], words: str, policy: SchemaDrift
) -> None:
    with pytest.raises(SchemaDriftError, match=words) as caught:
        compared(exported, target, policy)
    assert "The target is as it was." in str(caught.value)


def test_other_columns_do_not_come_right_with_another_attempt() -> None:
    assert issubclass(SchemaDriftError, AirflowFailException)


# ---- the types of Spark


@pytest.mark.parametrize(
    ("column_types", "fields"),
    [
        ("struct<>", {}),
        ("struct<a:int>", {"a": "int"}),
        ("struct<a b:timestamp_ntz,c:interval day to second>", {"a b": "timestamp_ntz", "c": "interval day to second"}),
        ("struct<a:string collate UTF8_LCASE,b:varchar(3)>", {"a": "string collate UTF8_LCASE", "b": "varchar(3)"}),
        ("struct<a:int,b:decimal(10,2)>", {"a": "int", "b": "decimal(10,2)"}),
        ("struct<a:decimal(10,2),b:int>", {"a": "decimal(10,2)", "b": "int"}),
        ("struct<a:array<int>>", {"a": "array<int>"}),
        ("struct<m:map<string,array<int>>,b:date>", {"m": "map<string,array<int>>", "b": "date"}),
        ("struct<s:struct<x:int,y:struct<z:decimal(3,1)>>>", {"s": "struct<x:int,y:struct<z:decimal(3,1)>>"}),
    ],
)
def test_the_fields_of_a_struct_are_told_apart_at_its_own_level(column_types: str, fields: dict[str, str]) -> None:
    assert struct_fields(column_types) == fields
    assert list(struct_fields(column_types)) == list(fields)


# What Spark writes of the columns `b,c`, `,b`, `b<c`, `b:c`, `b(`, and of one without a name.
@pytest.mark.parametrize(
    "fields", ["b,c:int", ",b:int", "b<c:int,d:int", "b:c:int", "b(:int,d:int", ":int", "d:int,b<c:int"]
)
def test_columns_that_cannot_be_told_apart_are_refused(fields: str) -> None:
    with pytest.raises(SchemaDriftError, match="cannot be told apart"):
        struct_fields(f"struct<a:int,{fields},z:int>")


@pytest.mark.parametrize("column_types", ["", "int", "array<struct<a:int>>", "struct<a:int"])
def test_what_is_no_struct_is_refused(column_types: str) -> None:
    with pytest.raises(SchemaDriftError, match="not a struct"):
        struct_fields(column_types)


@pytest.mark.parametrize(
    ("spark", "snowflake"),
    [
        ("boolean", "BOOLEAN"),
        ("tinyint", "NUMBER(38, 0)"),
        ("bigint", "NUMBER(38, 0)"),
        ("float", "DOUBLE"),
        ("double", "DOUBLE"),
        ("decimal(38,18)", "NUMBER(38, 18)"),
        ("string", "VARCHAR"),
        ("date", "DATE"),
        ("timestamp", "TIMESTAMP_LTZ"),
        ("timestamp_ntz", "TIMESTAMP_NTZ"),
        ("binary", "BINARY"),
        ("array<int>", "VARIANT"),
        ("map<string,int>", "VARIANT"),
        ("struct<a:decimal(10,2)>", "VARIANT"),
        ("a type of tomorrow", "VARIANT"),
    ],
)
def test_each_type_has_one_that_holds_its_values(spark: str, snowflake: str) -> None:
    assert snowflake_type(spark) == snowflake
