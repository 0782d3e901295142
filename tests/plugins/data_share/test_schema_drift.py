"""The columns of an export against those of its target: what is added, left out, left to its default, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from data_share.datasets import Dataset, SchemaDrift
from data_share.schema_drift import Comparison, SchemaDriftError, TypesLoseValuesError, compare_columns

TARGET = {"HARBOUR": "VARCHAR(80)", "DEPTH": "FLOAT"}
SAME = {"harbour": "string", "depth": "double"}
MORE = {**SAME, "salinity": "decimal(5,2)", "buoys": "array<struct<id:int,name:string>>"}


def dataset(**fields: Any) -> Dataset:
    return Dataset.model_validate(
        {
            "name": "tides",
            "description": "Tides by harbour.",
            "source_table": "main.sea.tides",
            "target_table": "tides",
            "load_mode": "replace",
            "required_columns": ("harbour",),
            **fields,
        }
    )


def compared(
    exported: dict[str, str] | None,
    target: dict[str, str] | None = None,
    defaults: dict[str, str] | None = None,
    **fields: Any,
) -> Comparison:
    schema = exported and json.dumps([{"name": name, "type": kind} for name, kind in exported.items()])
    described = [
        {"name": name, "type": kind, "default": (defaults or {}).get(name)} for name, kind in (target or TARGET).items()
    ]
    return compare_columns(schema, described, dataset(**fields))


def refusal(*args: Any, error: type[Exception] = SchemaDriftError, **fields: Any) -> str:
    with pytest.raises(error) as caught:
        compared(*args, **fields)
    assert "The target is as it was." in str(caught.value)
    return str(caught.value)


# ---- policies


@pytest.mark.parametrize("policy", list(SchemaDrift))
@pytest.mark.parametrize(
    "exported", [SAME, {"depth": "double", "harbour": "string"}, {"Harbour": "string", "DEPTH": "double"}, None]
)
def test_the_same_columns_in_any_order_and_case_add_nothing(
    exported: dict[str, str] | None, policy: SchemaDrift
) -> None:
    assert compared(exported, schema_drift=policy) == Comparison()


def test_new_columns_are_refused_with_their_types_by_default() -> None:
    message = refusal(MORE)
    assert "salinity (decimal(5,2)), buoys (array<struct<id:int,name:string>>), which tides does not have" in message
    assert "schema_drift" in message
    assert "depth" not in message


def test_new_columns_are_left_out_when_they_are_to_be_ignored() -> None:
    exported = {**MORE, "how_long": "interval day"}  # nobody loads it
    assert compared(exported, schema_drift="ignore_new") == Comparison()


def test_new_columns_are_added_with_their_types_as_snowflake_spells_them() -> None:
    added = compared(MORE, schema_drift="add_new").new_columns
    assert added == {"SALINITY": "NUMBER(5, 2)", "BUOYS": "VARIANT"}


def test_new_columns_that_no_type_holds_are_refused_unless_a_cast_is_wanted() -> None:
    exported = {**SAME, "waves": "array<decimal(38,9)>", "how_long": "interval day"}
    message = refusal(exported, error=TypesLoseValuesError, schema_drift="add_new")
    assert "waves: array<decimal(38,9)> has no counterpart. Cast it in the source" in message
    assert "how_long: interval day has no counterpart" in message
    exported.pop("how_long")
    assert compared(exported, schema_drift="add_new", casts=["Waves"]).new_columns == {"WAVES": "VARIANT"}


@pytest.mark.parametrize("policy", list(SchemaDrift))
def test_a_missing_column_is_refused_by_every_policy(policy: SchemaDrift) -> None:
    assert "the export lacks DEPTH, HARBOUR" in refusal({"salinity": "double"}, schema_drift=policy)


def test_missing_and_new_columns_are_told_together() -> None:
    message = refusal({"harbour": "string", "salinity": "double"})
    assert "the export lacks DEPTH; the export has salinity (double)" in message


@pytest.mark.parametrize("name", ["a b", 'a"b', "1a", "größe", "a-b", "a;DROP TABLE x", "a:int,b", "x" * 256])
def test_a_column_with_an_unsafe_name_is_never_added(name: str) -> None:
    exported = {**SAME, name: "int"}
    assert repr(name) in refusal(exported, schema_drift="add_new")
    assert compared(exported, schema_drift="ignore_new") == Comparison()


@pytest.mark.parametrize("error", [SchemaDriftError, TypesLoseValuesError])
def test_other_columns_do_not_come_right_with_another_attempt(error: type[Exception]) -> None:
    assert issubclass(error, AirflowFailException)


# ---- types


@pytest.mark.parametrize("policy", list(SchemaDrift))
def test_each_column_that_could_change_a_value_is_named_with_both_types_the_reason_and_what_helps(
    policy: SchemaDrift,
) -> None:
    target = {"HARBOUR": "NUMBER(38,0)", "DEPTH": "FLOAT", "PRICE": "NUMBER(38,0)", "WAVES": "VARIANT"}
    exported = {**SAME, "price": "decimal(12,2)", "waves": "array<decimal(38,9)>"}
    message = refusal(exported, target, error=TypesLoseValuesError, schema_drift=policy)
    assert "Values of 3 column(s) could change on their way into tides, without an error." in message
    assert (
        "- PRICE: decimal(12,2) into NUMBER(38,0), where digits behind the point are rounded away. Make it "
        'NUMBER(12, 2): ALTER TABLE tides ADD COLUMN "PRICE__NEW" NUMBER(12, 2); UPDATE tides SET "PRICE__NEW" = '
        '"PRICE"; ALTER TABLE tides DROP COLUMN "PRICE"; ALTER TABLE tides RENAME COLUMN "PRICE__NEW" TO "PRICE".'
    ) in message
    assert "- HARBOUR: string into NUMBER(38,0), where text is read as a number" in message
    assert "- WAVES: array<decimal(38,9)> into VARIANT, where a decimal of more than 15 digits" in message
    assert "Cast it in the source" in message
    assert "casts of the dataset file" in message
    assert "DEPTH" not in message


def test_columns_named_in_casts_pass_in_any_case_and_no_others() -> None:
    target = {"HARBOUR": "NUMBER(38,0)", "DEPTH": "NUMBER(38,0)"}
    assert compared(SAME, target, casts=["Depth", "harbour"]) == Comparison()
    message = refusal(SAME, target, error=TypesLoseValuesError, casts=["depth"])
    assert "HARBOUR: string" in message
    assert "DEPTH:" not in message


def test_what_can_only_fail_is_allowed() -> None:
    target = {"HARBOUR": "VARCHAR(1)", "DEPTH": "NUMBER(3,0)", "AT": "DATE"}
    exported = {"harbour": "string", "depth": "bigint", "at": "int"}
    assert compared(exported, target) == Comparison()


def test_a_merge_key_is_said_to_be_one() -> None:
    target = {"HARBOUR": "VARCHAR", "DEPTH": "NUMBER(38,0)"}
    message = refusal(
        SAME, target, error=TypesLoseValuesError, load_mode="merge", merge_keys=["depth"], casts=["harbour"]
    )
    assert "DEPTH: double into NUMBER(38,0)" in message
    assert "It is a merge key: a changed value would overwrite another row." in message


def test_types_are_told_beside_missing_columns() -> None:
    message = refusal({"harbour": "string"}, {"HARBOUR": "NUMBER(38,0)", "DEPTH": "FLOAT"})
    assert "the export lacks DEPTH" in message
    assert "- HARBOUR: string into NUMBER(38,0)" in message


# ---- defaults of the target


@pytest.mark.parametrize("policy", list(SchemaDrift))
def test_a_column_with_a_default_that_the_export_lacks_keeps_it_when_the_file_lists_it(policy: SchemaDrift) -> None:
    target = {**TARGET, "LOADED_AT": "TIMESTAMP_NTZ(9)"}
    defaults = {"LOADED_AT": "CURRENT_TIMESTAMP()"}
    found = compared(SAME, target, defaults, target_defaults=["loaded_at"], schema_drift=policy)
    assert found == Comparison(defaults=("LOADED_AT",))
    assert "the export lacks LOADED_AT" in refusal(SAME, target, defaults, schema_drift=policy)
    without = refusal(SAME, target, target_defaults=["loaded_at"], schema_drift=policy)
    assert "target_defaults lists LOADED_AT, which the export lacks and which has no DEFAULT" in without


def test_a_default_is_not_taken_for_a_column_that_the_export_has() -> None:
    exported, target = {**SAME, "loaded_at": "int"}, {**TARGET, "LOADED_AT": "NUMBER(38,0)"}
    assert compared(exported, target, {"LOADED_AT": "7"}, target_defaults=["loaded_at"]) == Comparison()
    target["LOADED_AT"] = "BOOLEAN"
    assert "LOADED_AT: int into BOOLEAN" in refusal(
        exported, target, {"LOADED_AT": "TRUE"}, error=TypesLoseValuesError, target_defaults=["loaded_at"]
    )
