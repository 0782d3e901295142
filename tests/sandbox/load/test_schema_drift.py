"""Exports whose columns are not those of the target."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from data_share.databricks.follow import DatabricksRunFailedError
from data_share.snowflake.schema_drift import SchemaDriftError
from tests.sandbox.load.driver import COLUMNS, SCHEMA, Row, Share

pytestmark = pytest.mark.sandbox

OLD: list[Row] = [{"k": 1, "name": "one", "amount": 1.0}]
WIDER = SCHEMA.append(pa.field("note", pa.string())).append(pa.field("price", pa.decimal128(10, 2)))
NEW: list[Row] = [{"k": 2, "name": "two", "amount": 2.0, "note": "Ålesund", "price": None}]
MERGE: dict[str, Any] = {"load_mode": "merge", "merge_keys": ("k",)}


def columns(share: Share, table: str) -> dict[str, str]:
    return {row["name"]: row["type"] for row in share.query(f"DESCRIBE TABLE {table}")}


def test_strict_fails_and_lists_new_and_missing_columns(a_share: Share) -> None:
    dataset = a_share.dataset({**COLUMNS, "note": "VARCHAR", "price": "NUMBER(10, 2)"})
    a_share.write(dataset, NEW, WIDER)
    run = a_share.run(dataset)
    a_share.export(dataset, run)
    # Between the export and the load: what the target lacked before, the job has refused.
    a_share.query(f"ALTER TABLE {dataset.target_table} ADD COLUMN gone DATE")
    a_share.query(f"ALTER TABLE {dataset.target_table} ADD COLUMN away DATE")
    for column in ("amount", "note", "price"):
        a_share.query(f"ALTER TABLE {dataset.target_table} DROP COLUMN {column}")
    with pytest.raises(SchemaDriftError) as caught:
        a_share.steps(run)
    message = str(caught.value)
    assert "the export lacks AWAY, GONE" in message
    assert "the export has amount (double), note (string), price (decimal(10,2))" in message
    assert f"which {dataset.target_table} does not have" in message
    assert "The target is as it was" in message
    assert a_share.query(f"SELECT * FROM {dataset.target_table}") == []
    assert a_share.ledger(dataset) == []


def test_ignored_columns_are_left_out(a_share: Share) -> None:
    dataset = a_share.dataset(schema_drift="ignore_new", **MERGE)
    a_share.write(dataset, OLD)
    a_share.sync(dataset)
    a_share.write(dataset, NEW, WIDER)
    a_share.sync(dataset)
    assert a_share.target(dataset) == [*OLD, {"k": 2, "name": "two", "amount": 2.0}]


def test_new_columns_are_added_and_filled_and_earlier_rows_have_null(a_share: Share) -> None:
    dataset = a_share.dataset(schema_drift="add_new", **MERGE)
    a_share.write(dataset, OLD)
    a_share.sync(dataset)
    a_share.write(dataset, NEW, WIDER)
    run = a_share.sync(dataset)
    assert columns(a_share, dataset.target_table)["NOTE"].startswith("VARCHAR")
    assert columns(a_share, dataset.target_table)["PRICE"] == "NUMBER(10,2)"
    assert a_share.target(dataset) == [{**OLD[0], "note": None, "price": None}, NEW[0]]
    assert run.xcoms["copy_into_staging", "return_value"]["new_columns"] == {
        "NOTE": "VARCHAR",
        "PRICE": "NUMBER(10, 2)",
    }


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_new_columns_are_filled_in_the_other_load_modes_too(a_share: Share, mode: str) -> None:
    dataset = a_share.dataset(schema_drift="add_new", load_mode=mode)
    a_share.write(dataset, OLD)
    a_share.sync(dataset)
    a_share.write(dataset, NEW, WIDER)
    a_share.sync(dataset)
    earlier = [{**OLD[0], "note": None, "price": None}] if mode == "append" else []
    assert a_share.target(dataset) == [*earlier, *NEW]


def test_a_publish_that_is_tried_again_adds_nothing_twice(a_share: Share) -> None:
    dataset = a_share.dataset(schema_drift="add_new")
    a_share.write(dataset, NEW, WIDER)
    run = a_share.staged(dataset)
    a_share.query(f"ALTER TABLE {dataset.target_table} ADD COLUMN note VARCHAR")
    a_share.step(run, "publish")
    assert a_share.target(dataset) == NEW


def test_names_are_compared_without_their_case(a_share: Share) -> None:
    dataset = a_share.dataset()
    shouted = pa.schema([field.with_name(field.name.title()) for field in SCHEMA])
    a_share.write(dataset, [{"K": 1, "Name": "one", "Amount": 1.0}], shouted)
    a_share.sync(dataset)
    assert a_share.target(dataset) == OLD


def test_strict_refuses_new_columns_of_an_empty_source_too(a_share: Share) -> None:
    dataset = a_share.dataset(allow_empty=True)
    a_share.write(dataset, [], WIDER)
    with pytest.raises(DatabricksRunFailedError, match="columns that the target lacks: note, price"):
        a_share.sync(dataset)


@pytest.mark.parametrize("policy", ["ignore_new", "add_new"])
def test_an_empty_export_has_no_columns_to_compare(a_share: Share, policy: str) -> None:
    dataset = a_share.dataset(allow_empty=True, schema_drift=policy)
    a_share.write(dataset, [], WIDER)
    a_share.sync(dataset)
    assert list(columns(a_share, dataset.target_table)) == ["K", "NAME", "AMOUNT"]


def test_a_nested_column_is_added_as_variant(a_share: Share) -> None:
    dataset = a_share.dataset(schema_drift="add_new")
    nested = SCHEMA.append(pa.field("tags", pa.list_(pa.string())))
    a_share.write(dataset, [{**OLD[0], "tags": ["a", "b"]}], nested)
    run = a_share.sync(dataset)
    assert run.xcoms["copy_into_staging", "return_value"]["new_columns"] == {"TAGS": "VARIANT"}
    [row] = a_share.query(f"SELECT tags FROM {dataset.target_table}")
    assert "".join(str(row["TAGS"]).split()) == '["a","b"]'
