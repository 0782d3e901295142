"""Syncs of tables whose names are not plain ones, or are those that the statements of a sync use themselves."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from data_share.datasets import SchemaDrift
from data_share.snowflake.check import CheckFailedError
from data_share.snowflake.schema_drift import SchemaDriftError
from data_share.sql_text import quoted
from tests.sandbox.load.driver import SCHEMA, Row, Share

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

# As Snowflake stores them, with blanks, points, quotes, brackets, letters beyond ASCII, key words, and what would end a
# statement or begin a comment.
NAMES = [
    "id",
    "observedAt",
    "Net price",
    "größe",
    "a.b",
    'say "hi"',
    "it's",
    "select",
    "ORDER",
    "{{ x }}",
    "a;b",
    "--",
    "/* c",
    "a\\",
    "$1",
    "50 %",
]
# What the statements of a sync call their own tables, columns and checks, and what the manifest and the ledger hold.
OURS = [
    "TARGET",
    "STAGING",
    "STAGED",
    "PRESENT",
    "KNOWN",
    "KNOWN_KEYS",
    "MATCHED",
    "TOTAL",
    "TURN",
    "MINE",
    "CHANGES",
    "EARLIER",
    "MANIFEST",
    "SOURCE",
    "CHECK_NAME",
    "CHECK_RESULT",
    "RUN_KEY",
    "DATASET",
    "STAGED_AT",
    "ROW_COUNT",
    "FILE_COUNT",
    "ROWS_INSERTED",
    "ROWS_EXPORTED",
    "PUBLISHED_AT",
    "EXPORTED_AT",
    "ROWS_MATCH_MANIFEST",
    "STATUS",
    "FILE",
    "ROWS_LOADED",
    "FILE_ROW_NUMBER",
    "KEY",
    "K",
]
# How it is loaded, and what is inserted, updated and deleted when the target has 1 and 2, and 2, 3 and 4 come.
MODES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "replace": ({}, (3, 0, 2)),
    "append": ({}, (3, 0, 0)),
    "merge": ({"delete_missing": True}, (2, 1, 1)),
}


def rows_of(names: list[str], *keys: int) -> list[Row]:
    return [{name: f"{name} {key}" for name in names} for key in keys]


@pytest.mark.others_nightly
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "names", [pytest.param(NAMES, id="unusual"), pytest.param(OURS, id="ours", marks=pytest.mark.tier("nightly"))]
)
def test_a_sync_is_right_whatever_the_names_are(a_share: Share, names: list[str], mode: str) -> None:
    fields, changes = MODES[mode]
    dataset = a_share.dataset(
        dict.fromkeys(map(quoted, names), "VARCHAR"),
        load_mode=mode,
        merge_keys=tuple(map(quoted, names[:-1])) if mode == "merge" else (),
        required_columns=tuple(map(quoted, names)),
        checks={"texts": " AND ".join(f"LENGTH({quoted(name)}) > 0" for name in names if not set(name) & set(";-/"))},
        **fields,
    )
    first, second = rows_of(names, 1, 2), rows_of(names, 2, 3, 4)
    second[0][names[-1]] = "changed"
    for rows in (first, second):
        a_share.write(dataset, rows, pa.schema({name: pa.string() for name in names}))
        ledger = a_share.sync(dataset).ledger_row
    assert tuple(ledger[f"rows_{change}"] for change in ("inserted", "updated", "deleted")) == changes
    found = a_share.query(f"SELECT * FROM {dataset.target}")
    expected = first + second if mode == "append" else second
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert ledger["rows_in_target"] == len(found)


def test_a_failed_check_names_its_column_and_shows_its_rows(a_share: Share) -> None:
    dataset = a_share.dataset(
        {'"Net price"': "DOUBLE", "CHECK_RESULT": "VARCHAR", "TOTAL": "VARCHAR"}, required_columns=('"Net price"',)
    )
    schema = pa.schema({"Net price": pa.float64(), "CHECK_RESULT": pa.string(), "TOTAL": pa.string()})
    a_share.write(dataset, [{"Net price": None, "CHECK_RESULT": "x", "TOTAL": "y"}], schema)
    with pytest.raises(CheckFailedError) as caught:
        a_share.sync(dataset)
    assert (
        'Net price_not_null: "Net price" IS NOT NULL. Not true for 1 row(s), e.g. Net price=None, CHECK_RESULT=x'
        in str(caught.value)
    )


def test_a_check_names_columns_as_snowflake_does(a_share: Share) -> None:
    dataset = a_share.dataset({'"id"': "NUMBER(38, 0)"}, required_columns=('"id"',), checks={"positive": "id > 0"})
    a_share.write(dataset, [{"id": 1}], pa.schema({"id": pa.int64()}))
    with pytest.raises(Exception, match="invalid identifier 'ID'"):
        a_share.sync(dataset)
    assert a_share.query(f"SELECT * FROM {dataset.target}") == []


@pytest.mark.others_nightly
@pytest.mark.parametrize(
    "target",
    [
        "order",
        pytest.param("staging", marks=pytest.mark.tier("nightly")),
        pytest.param("staged_row", marks=pytest.mark.tier("nightly")),
        pytest.param('"Orders 2026"', marks=pytest.mark.tier("nightly")),
        'public."größe"',
        '"DATA_SHARE"."PUBLIC"."a.b"',
        '"say ""hi"""',
        pytest.param('"2026"', marks=pytest.mark.tier("nightly")),
    ],
)
def test_a_target_may_have_any_name(a_share: Share, target: str) -> None:
    fields: dict[str, Any] = {
        "load_mode": "merge",
        "merge_keys": ("k",),
        "delete_missing": True,
        "schema_drift": "add_new",
    }
    dataset = a_share.dataset(target_table=target, **fields)
    a_share.write(dataset, [{"k": 1, "name": "one", "amount": 1.0}, {"k": 2, "name": "two", "amount": 2.0}])
    a_share.sync(dataset)
    a_share.write(
        dataset, [{"k": 2, "name": "two", "amount": 2.0, "new": 3}], SCHEMA.append(pa.field("new", pa.int64()))
    )
    assert a_share.sync(dataset).ledger_row["target_table"] == target
    assert a_share.query(f"SELECT * FROM {dataset.target}") == [{"K": 2, "NAME": "two", "AMOUNT": 2.0, "NEW": 3}]


def test_a_target_of_another_case_is_another_table(a_share: Share) -> None:
    for target in ("cased", '"Cased"'):
        dataset = a_share.dataset(target_table=target)
        a_share.write(dataset, [{"k": len(target), "name": target, "amount": None}])
        a_share.sync(dataset)
    assert [a_share.query(f"SELECT k FROM {target}") for target in ("CASED", '"Cased"')] == [[{"K": 5}], [{"K": 7}]]


@pytest.mark.parametrize("source", ["prod-eu.sales.orders", "`prod-eu`.sales.`say``hi`", "main.größe.2026"])
def test_a_source_may_have_any_name_of_unity_catalog(a_share: Share, source: str) -> None:
    dataset = a_share.dataset(source_table=source)
    a_share.write(dataset, [{"k": 1, "name": "one", "amount": 1.0}])
    assert a_share.sync(dataset).ledger_row["source_table"] == dataset.source_table
    assert a_share.target(dataset) == [{"k": 1, "name": "one", "amount": 1.0}]


@pytest.mark.parametrize("name", ["_metadata", "_Metadata"])
def test_a_column_with_the_name_of_the_files_own_is_loaded_like_any_other(a_share: Share, name: str) -> None:
    dataset = a_share.dataset({"K": "NUMBER(38, 0)", name.upper(): "VARIANT"})
    rows = [{"k": key, name: {"file_path": str(key)}} for key in range(3)]
    a_share.write(dataset, rows, pa.schema({"k": pa.int64(), name: pa.struct({"file_path": pa.string()})}))
    assert a_share.sync(dataset).ledger_row["rows_loaded"] == 3
    found = a_share.target(dataset, order="k")
    assert [(row["k"], json.loads(row["_metadata"])) for row in found] == [(row["k"], row[name]) for row in rows]


@pytest.mark.parametrize("policy", list(SchemaDrift))
def test_a_target_with_columns_that_differ_only_by_case_is_refused(a_share: Share, policy: SchemaDrift) -> None:
    dataset = a_share.dataset({'"k"': "NUMBER(38, 0)", "k": "NUMBER(38, 0)"}, schema_drift=policy)
    a_share.write(dataset, [{"k": 1}], pa.schema({"k": pa.int64()}))
    with pytest.raises(SchemaDriftError, match=f"The columns K, k of {dataset.target_table} differ only by case"):
        a_share.sync(dataset)


def test_new_columns_have_the_names_of_the_source(a_share: Share) -> None:
    dataset = a_share.dataset(
        {'"k"': "NUMBER(38, 0)", '"observedAt"': "VARCHAR"}, schema_drift="add_new", required_columns=('"k"',)
    )
    row = {"k": 1, "observedAt": "now", "Net price": 2.5, "addedAt": "then", 'say "hi"; --': "hi"}
    texts = {name: pa.string() for name in row}
    a_share.write(dataset, [row], pa.schema({**texts, "k": pa.int64(), "Net price": pa.float64()}))
    a_share.sync(dataset)
    [found] = a_share.query(f"SELECT * FROM {dataset.target}")
    assert found == {**{name: row[name] for name in row if name != "addedAt"}, "ADDEDAT": "then"}
