"""Which types keep which values, which can only fail, and which would change a value without an error."""

from __future__ import annotations

import re

import pytest

from data_share.column_types import (
    PAIRS,
    SYNONYMS,
    UnknownTypeError,
    Verdict,
    described_type,
    fit,
    new_column_type,
    source_type,
    target_type,
    type_pattern,
)

E, L, S = Verdict.EXACT, Verdict.LOUD, Verdict.SILENT


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        # numbers: digits behind the point, before it, and those that a binary number has
        ("decimal(12,2)", "NUMBER(38,0)", S),
        ("decimal(12,2)", "NUMBER(12,1)", S),
        ("decimal(12,2)", "NUMBER(12,2)", E),
        ("decimal(12,2)", "NUMBER(13,3)", E),
        ("decimal(12,2)", "NUMBER(12,3)", L),
        ("decimal(38,38)", "NUMBER(38,37)", S),
        ("decimal(38,37)", "NUMBER(38,37)", E),
        ("decimal(38,38)", "DECFLOAT", S),
        ("decimal(38,37)", "DECFLOAT", E),
        ("decimal(15,0)", "FLOAT", E),
        ("decimal(16,0)", "FLOAT", S),
        ("decimal(3,1)", "FLOAT", S),
        ("decimal(38,9)", "FLOAT", S),
        ("decimal(15,2)", "VARIANT", E),
        ("decimal(38,9)", "VARIANT", S),
        ("decimal(20,3)", "VARCHAR(40)", L),
        ("tinyint", "NUMBER(3,0)", E),
        ("tinyint", "NUMBER(2,0)", L),
        ("int", "NUMBER(10,0)", E),
        ("bigint", "NUMBER(10,0)", L),
        ("bigint", "NUMBER(19,0)", E),
        ("bigint", "NUMBER(38,20)", L),
        ("int", "FLOAT", E),
        ("bigint", "FLOAT", S),
        ("bigint", "VARIANT", E),
        ("bigint", "VARCHAR(16777216)", L),
        ("smallint", "BOOLEAN", S),
        ("bigint", "TIMESTAMP_NTZ(9)", S),
        ("bigint", "DATE", L),
        ("double", "NUMBER(38,10)", S),
        ("float", "FLOAT", E),
        ("double", "FLOAT", E),
        ("double", "DECFLOAT", S),
        ("double", "VARCHAR(16777216)", S),
        # text
        ("string", "VARCHAR(100)", L),
        ("string collate UTF8_LCASE", "VARCHAR(100)", L),
        ("varchar(10)", "VARCHAR(10)", L),
        ("char(10)", "NUMBER(38,0)", S),
        ("string", "NUMBER(38,0)", S),
        ("string", "FLOAT", S),
        ("string", "DATE", S),
        ("string", "TIME(9)", S),
        ("string", "TIMESTAMP_LTZ(9)", S),
        ("string", "BOOLEAN", S),
        ("string", "BINARY(8388608)", S),
        ("string", "VARIANT", L),
        ("string", "OBJECT", L),
        ("string", "ARRAY", S),
        # bytes and truth
        ("binary", "BINARY(10)", L),
        ("binary", "VARCHAR(16777216)", S),
        ("boolean", "BOOLEAN", E),
        ("boolean", "NUMBER(1,0)", E),
        # times: the fraction, the day, the zone
        ("date", "DATE", E),
        ("date", "TIMESTAMP_NTZ(0)", E),
        ("date", "TIMESTAMP_LTZ(9)", S),
        ("date", "VARCHAR(10)", S),
        ("timestamp", "TIMESTAMP_LTZ(9)", E),
        ("timestamp", "TIMESTAMP_TZ(6)", E),
        ("timestamp", "TIMESTAMP_NTZ(9)", E),
        ("timestamp", "TIMESTAMP_LTZ(5)", S),
        ("timestamp", "TIMESTAMP_NTZ(3)", S),
        ("timestamp", "DATE", S),
        ("timestamp", "TIME(9)", S),
        ("timestamp", "VARCHAR(16777216)", S),
        ("timestamp", "NUMBER(38,0)", L),
        ("timestamp_ntz", "TIMESTAMP_NTZ(6)", E),
        ("timestamp_ntz", "TIMESTAMP_NTZ(0)", S),
        ("timestamp_ntz", "TIMESTAMP_LTZ(9)", S),
        ("timestamp_ntz", "TIMESTAMP_TZ(9)", S),
        ("time(6)", "TIME(9)", E),
        ("time(6)", "TIME(3)", S),
        # nested
        ("array<bigint>", "VARIANT", E),
        ("array<bigint>", "ARRAY", E),
        ("array<string>", "OBJECT", L),
        ("array<string>", "VARCHAR(16777216)", S),
        ("struct<a:decimal(10,2)>", "VARIANT", E),
        ("struct<a:array<decimal(38,9)>>", "VARIANT", S),
        ("struct<a:array<decimal(38,9)>>", "OBJECT", S),
        ("struct<a:int>", "ARRAY", S),
        ("map<string,double>", "OBJECT", E),
        ("map<int,string>", "VARIANT", E),
        ("map<timestamp,string>", "VARIANT", S),
        ("array<binary>", "VARIANT", S),
        # names of fields that read like types
        ("struct<variant:string,interval:int,binary code:date>", "VARIANT", E),
        ("struct<a:int,decimal(38,9):int>", "VARIANT", E),
        ("struct<a,b:decimal(38,9)>", "VARIANT", S),
        # no counterpart
        ("void", "NUMBER(38,0)", E),
        ("void", "GEOGRAPHY", E),
        ("interval day to second", "NUMBER(38,0)", S),
        ("interval year", "VARCHAR(10)", S),
        ("variant", "VARIANT", S),
        ("geometry(4326)", "GEOMETRY", S),
        ("a type of tomorrow", "VARCHAR(10)", S),
        ("array<float>", "VECTOR(FLOAT, 3)", S),
        ("map<string,int>", "MAP(VARCHAR(16777216), NUMBER(38,0))", S),
        # as DESCRIBE shows a text with a collation
        ("string", "VARCHAR(100) COLLATE 'en-ci'", L),
        ("decimal(12,2)", "VARCHAR(16777216) COLLATE ''", L),
    ],
)
def test_what_a_column_does_with_values_of_a_type(source: str, target: str, verdict: Verdict) -> None:
    found = fit(source, target)
    assert found.verdict is verdict
    assert bool(found.reason) is (verdict is not Verdict.EXACT)


@pytest.mark.parametrize("source", PAIRS)
@pytest.mark.parametrize("target", [*SYNONYMS, "OTHER"])
def test_each_pair_has_an_answer_whatever_the_sizes_are(source: str, target: str) -> None:
    cases = PAIRS[source].get(target, ())
    assert not cases or cases[-1].condition(source_type(source), described_type(target))
    assert all(case.reason for case in cases if case.verdict is not Verdict.EXACT)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("boolean", "BOOLEAN"),
        ("tinyint", "NUMBER(38, 0)"),
        ("bigint", "NUMBER(38, 0)"),
        ("float", "FLOAT"),
        ("decimal(38,18)", "NUMBER(38, 18)"),
        ("decimal(38,38)", None),
        ("string collate UTF8_LCASE", "VARCHAR"),
        ("date", "DATE"),
        ("timestamp", "TIMESTAMP_LTZ"),
        ("timestamp_ntz", "TIMESTAMP_NTZ"),
        ("binary", "BINARY"),
        ("array<int>", "VARIANT"),
        ("struct<a:decimal(10,2)>", "VARIANT"),
        ("struct<a:decimal(38,2)>", None),
        ("void", "VARIANT"),
        ("interval day", None),
        ("variant", None),
        ("a type of tomorrow", None),
    ],
)
def test_a_new_column_gets_a_type_that_holds_its_values_or_none(source: str, target: str | None) -> None:
    assert new_column_type(source) == target
    assert target is None or fit(source, target).verdict is not Verdict.SILENT


def test_a_cast_gives_a_new_column_the_nearest_type_that_there_is() -> None:
    assert new_column_type("array<decimal(38,9)>", with_cast=True) == "VARIANT"
    assert new_column_type("interval day", with_cast=True) is None


WRITTEN = [
    ("bigint", "NUMBER(38, 0)"),
    ("Integer", "NUMBER(38, 0)"),
    ("number", "NUMBER(38, 0)"),
    ("NUMBER(38,37)", "NUMBER(38, 37)"),
    ("Decimal ( 38 , 6 )", "NUMBER(38, 6)"),
    ("dec(5)", "NUMBER(5, 0)"),
    ("CHAR(20)", "VARCHAR(20)"),
    ("char", "VARCHAR(1)"),
    ("String", "VARCHAR"),
    ("TEXT", "VARCHAR"),
    ("nvarchar2(7)", "VARCHAR(7)"),
    ("double  precision", "FLOAT"),
    ("REAL", "FLOAT"),
    ("varbinary(3)", "BINARY(3)"),
    ("timestamp", "TIMESTAMP_NTZ"),
    ("datetime", "TIMESTAMP_NTZ"),
    ("TIMESTAMP_LTZ(6)", "TIMESTAMP_LTZ(6)"),
    ("timestamp(3) with time zone", "TIMESTAMP_TZ(3)"),
    ("time(0)", "TIME(0)"),
    ("variant", "VARIANT"),
]


@pytest.mark.parametrize(("written", "text"), WRITTEN)
def test_a_type_is_read_by_any_of_its_names_in_any_case(written: str, text: str) -> None:
    assert target_type(written).text == text
    assert target_type(text).text == text
    assert re.search(type_pattern(), written)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("", "no type of Snowflake"),
        ("JSONB", "no type of Snowflake"),
        ("DATE); DROP TABLE x", "no type of Snowflake"),
        ("NUMBER(39)", "a number has 1 to 38 digits"),
        ("NUMBER(38,38)", "at most 37"),
        ("NUMBER(3,5)", "at most its precision"),
        ("INT(4)", "INT takes no size"),
        ("DATE(3)", "DATE takes no size"),
        ("VARCHAR(0)", "1 to 134217728"),
        ("VARCHAR(5,1)", "one size"),
        ("TIME(10)", "0 to 9"),
    ],
)
def test_what_is_no_type_is_told_in_a_sentence(written: str, words: str) -> None:
    with pytest.raises(UnknownTypeError, match=re.escape(words)):
        target_type(written)
