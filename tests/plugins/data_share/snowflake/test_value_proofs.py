"""Which columns are compared by value, and which differences count."""

from __future__ import annotations

import json
from typing import Any

import pytest

from data_share.datasets import Dataset
from data_share.snowflake.value_proofs import InvalidProofError, differences, proven_columns

FRACTION = {
    "column": "V",
    "form": "fraction",
    "filled": "1000",
    "finite": "997",
    "infinite": "1",
    "negative_infinite": "1",
    "minimum": "-3.0",
    "maximum": "1.0E300",
    "total": "1.0E300",
    "magnitude": "1.0E300",
}


def dataset(**fields: Any) -> Dataset:
    known = {"name": "tides", "description": "Tides.", "source_table": "main.sea.tides", "target_table": "tides"}
    return Dataset.model_validate({**known, "load_mode": "replace", "required_columns": ["k"], **fields})


def entry(kind: str, **said: Any) -> str:
    return json.dumps([{"name": "v", "type": kind, "filled": "2", "checksum": "123", **said}])


@pytest.mark.parametrize(
    ("source", "target", "form", "scale"),
    [
        ("tinyint", "NUMBER(3,0)", "number", 0),
        ("bigint", "NUMBER(38,2)", "number", 2),
        ("int", "FLOAT", "number", None),
        ("int", "VARCHAR(16777216)", "text", 0),
        ("decimal(10,2)", "NUMBER(12,4)", "number", 4),
        ("string", "VARCHAR(10)", "text", 0),
        ("string collate UTF8_LCASE", "VARCHAR", "text", 0),
        ("boolean", "BOOLEAN", "boolean", 0),
        ("date", "DATE", "date", 0),
        ("timestamp", "TIMESTAMP_TZ(9)", "timestamp", 0),
        ("timestamp_ntz", "TIMESTAMP_NTZ(6)", "timestamp", 0),
        ("binary", "BINARY(8388608)", "binary", 0),
    ],
)
def test_what_both_sides_have_a_text_of_is_compared(source: str, target: str, form: str, scale: int | None) -> None:
    proven, unproven = proven_columns(entry(source), {"V": target}, dataset())
    assert proven == [{"column": "V", "form": form, "scale": scale, "filled": "2", "checksum": "123"}]
    assert unproven == {}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *(("array<int>", "VARIANT"), ("date", "TIMESTAMP_NTZ(9)"), ("boolean", "VARCHAR"), ("decimal(5,2)", "VARCHAR")),
        *(("void", "NUMBER(38,0)"), ("string", "VARIANT"), ("timestamp", "GEOGRAPHY"), ("double", "NUMBER(38,0)")),
    ],
)
def test_other_pairs_are_left_out_and_named(source: str, target: str) -> None:
    proven, unproven = proven_columns(entry(source), {"V": target}, dataset())
    assert (proven, unproven) == ([], {"V": f"no checksum is known for {source} in {target}"})


def test_columns_that_are_not_loaded_are_no_matter() -> None:
    assert proven_columns(entry("int"), {}, dataset()) == ([], {})


@pytest.mark.parametrize(
    "said",
    [
        {"checksum": "12x"},
        {"checksum": 12},
        {"checksum": "1); DROP TABLE t"},
        {"filled": "-1"},
        {"filled": "1" * 39},
        {"type": "double", "finite": "1", "infinite": "0", "negative_infinite": "0", "minimum": "1"},
        {"type": "float", **FRACTION, "total": "one"},
        {"type": "float", **FRACTION, "maximum": "1e"},
    ],
)
def test_a_manifest_that_says_no_sums_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidProofError, match="column 'v' cannot be read"):
        proven_columns(entry("int", **said), {"V": "FLOAT"}, dataset())


def staged(**changes: Any) -> dict[str, Any]:
    row = {"filled": 1000, "finite": 997, "infinite": 1, "negative_infinite": 1, "minimum": -3.0}
    row |= {"maximum": 1e300, "total": 1e300} | changes
    return {f"{name.upper()}_0": value for name, value in row.items()}


@pytest.mark.parametrize(
    "changes",
    [{}, {"maximum": 1.0000000000000002e300, "total": 1e300 * (1 + 0.9e-12)}, {"total": 1e300 * (1 - 0.9e-12)}],
)
def test_what_the_order_of_a_sum_or_a_text_changes_is_no_difference(changes: dict[str, Any]) -> None:
    assert differences([FRACTION], staged(**changes)) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("filled", 999),
        ("finite", 996),
        ("infinite", 0),
        ("negative_infinite", 0),
        ("minimum", -3.000003),
        ("minimum", 3.0),
        ("minimum", None),
        ("maximum", 1.000001e300),
        ("total", 1e300 * (1 + 2e-12)),
        ("total", None),
    ],
)
def test_a_difference_names_the_column_and_both_sides(name: str, value: Any) -> None:
    [sentence] = differences([FRACTION], staged(**{name: value}))
    said = "none" if value is None else value
    assert sentence == f'column "V": {name} {FRACTION[name]} in the files, {said} here'


def test_a_sum_of_many_values_may_differ_by_more_but_never_by_more_than_a_billionth() -> None:
    many = {**FRACTION, "finite": "100000"}
    assert differences([many], staged(finite=100_000, total=1e300 * (1 + 0.9e-10))) == []
    assert differences([many], staged(finite=100_000, total=1e300 * (1 + 2e-10)))
    huge = {**FRACTION, "finite": "1000000000"}
    assert differences([huge], staged(finite=10**9, total=1e300 * (1 + 0.9e-9))) == []
    assert differences([huge], staged(finite=10**9, total=1e300 * (1 + 2e-9)))


def test_a_sum_that_is_too_large_for_any_order_is_not_compared() -> None:
    endless = {**FRACTION, "total": "NaN", "magnitude": "Infinity"}
    assert differences([endless], staged(total=1e300)) == []


def test_columns_without_a_value_are_the_same() -> None:
    empty = {"column": "V", "form": "text", "filled": "0", "checksum": None}
    assert differences([empty], {"FILLED_0": 0, "CHECKSUM_0": None}) == []
    assert differences([empty], {"FILLED_0": 1, "CHECKSUM_0": 12}) == [
        'column "V": filled 0 in the files, 1 here; checksum none in the files, 12 here'
    ]
