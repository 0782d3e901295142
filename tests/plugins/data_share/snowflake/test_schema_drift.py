"""The columns of an export against those of its target: what is added, left out, left to its default, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from data_share.datasets import Dataset, SchemaDrift
from data_share.snowflake.schema_drift import Comparison, SchemaDriftError, TypesLoseValuesError, compare_columns

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


def test_the_same_columns_in_any_order_and_case_add_nothing() -> None:
    for exported in (SAME, {"depth": "double", "harbour": "string"}, {"Harbour": "string", "DEPTH": "double"}, None):
        for policy in SchemaDrift:
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
    assert message.endswith(
        "\nSet schema_drift: ignore_new in the dataset file, which leaves new columns out, or cast these columns in "
        "the source, or list waves in casts of the dataset file if changed values are right. Then start the sync again."
    )
    assert "add_new" not in refusal(exported)
    exported.pop("how_long")
    assert compared(exported, schema_drift="add_new", casts=["Waves"]).new_columns == {"WAVES": "VARIANT"}


def test_missing_and_new_columns_are_told_together() -> None:
    message = refusal({"harbour": "string", "salinity": "double"})
    assert "the export lacks DEPTH; the export has salinity (double)" in message


def test_a_column_whose_name_is_no_plain_one_is_added_under_its_own_name() -> None:
    names = {name: name for name in ("a b", 'a"b', "1a", "größe", "a-b", "a;DROP TABLE x", "a:int,b", "x" * 255)}
    names |= {"x" * 255: "X" * 255, "plain_2": "PLAIN_2"}
    for name, stored in names.items():
        assert compared({**SAME, name: "int"}, schema_drift="add_new").new_columns == {stored: "NUMBER(38, 0)"}


def test_a_column_with_a_name_that_nobody_can_write_is_never_added() -> None:
    for name in ("a\x00b", "a\nb", "x" * 256):
        exported = {**SAME, name: "int"}
        assert repr(name) in refusal(exported, schema_drift="add_new")
        assert compared(exported, schema_drift="ignore_new") == Comparison()
        assert "add_new" not in refusal(exported)


# ---- names


def test_names_of_the_target_stay_as_they_are_and_match_in_any_case() -> None:
    target = {"id": "NUMBER(38,0)", "observedAt": "DATE", "Net price": "FLOAT", "größe": "NUMBER(38,0)"}
    exported = {"id": "int", "OBSERVEDAT": "date", "net price": "double", "größe": "int"}
    for policy in SchemaDrift:
        assert compared(exported, target, schema_drift=policy) == Comparison()
        assert "the export lacks Net price, größe, observedAt" in refusal({"id": "int"}, target, schema_drift=policy)
    defaults = {"observedAt": "CURRENT_DATE()"}
    exported.pop("OBSERVEDAT")
    found = compared(exported, target, defaults, target_defaults=['"observedAt"'])
    assert found == Comparison(defaults=("observedAt",))


def test_letters_beyond_ascii_match_as_they_are() -> None:
    # How COPY INTO folds them is not documented. A column that it does not match would be left empty.
    message = refusal({"größe": "int"}, {"GRÖSSE": "NUMBER(38,0)"})
    assert "the export lacks GRÖSSE; the export has größe" in message
    assert "the export lacks Ä" in refusal({"ä": "int"}, {"Ä": "NUMBER(38,0)"})


def test_columns_that_differ_only_by_case_are_refused() -> None:
    number = "NUMBER(38,0)"
    cases = [
        ({"id": "int", "Id": "int"}, {"ID": number}, "The columns Id, id of the export differ only by case"),
        ({"ä": "int", "Ä": "int"}, {"ä": number}, "The columns Ä, ä of the export differ only by case"),
        ({"id": "int"}, {"id": number, "ID": number}, "The columns ID, id of tides differ only by case"),
    ]
    for exported, target, words in cases:
        for policy in SchemaDrift:
            assert words in refusal(exported, target, schema_drift=policy)


def test_other_columns_do_not_come_right_with_another_attempt() -> None:
    for error in (SchemaDriftError, TypesLoseValuesError):
        assert issubclass(error, AirflowFailException)


# ---- types


def test_each_column_that_could_change_a_value_is_named_with_both_types_the_reason_and_what_helps() -> None:
    target = {"HARBOUR": "NUMBER(38,0)", "DEPTH": "FLOAT", "PRICE": "NUMBER(38,0)", "WAVES": "VARIANT"}
    exported = {**SAME, "price": "decimal(12,2)", "waves": "array<decimal(38,9)>"}
    message = refusal(exported, target, error=TypesLoseValuesError)
    assert "Values of 3 column(s) could change on their way into tides, without an error." in message
    assert (
        "- PRICE: decimal(12,2) into NUMBER(38,0), where digits after the point are rounded away. Make it "
        'NUMBER(12, 2): ALTER TABLE "TIDES" ADD COLUMN "PRICE__NEW" NUMBER(12, 2); UPDATE "TIDES" SET "PRICE__NEW" = '
        '"PRICE"; ALTER TABLE "TIDES" DROP COLUMN "PRICE"; ALTER TABLE "TIDES" RENAME COLUMN "PRICE__NEW" TO "PRICE".'
    ) in message
    assert "- HARBOUR: string into NUMBER(38,0), where text is read as a number" in message
    assert "- WAVES: array<decimal(38,9)> into VARIANT, where a decimal of more than 15 digits" in message
    assert "Cast it in the source" in message
    assert message.endswith(
        "\nGive each of these columns the type that is named for it, or list harbour, price, waves in casts of the "
        "dataset file if changed values are right. Then start the sync again."
    )
    assert "DEPTH" not in message
    for policy in SchemaDrift:
        assert refusal(exported, target, error=TypesLoseValuesError, schema_drift=policy) == message


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
    assert message.endswith("\nGive each of these columns the type that is named for it. Then start the sync again.")


def test_types_are_told_beside_missing_columns() -> None:
    message = refusal({"harbour": "string"}, {"HARBOUR": "NUMBER(38,0)", "DEPTH": "FLOAT"})
    assert "the export lacks DEPTH" in message
    assert "- HARBOUR: string into NUMBER(38,0)" in message


# ---- defaults of the target


def test_a_column_with_a_default_that_the_export_lacks_keeps_it_when_the_file_lists_it() -> None:
    target = {**TARGET, "LOADED_AT": "TIMESTAMP_NTZ(9)"}
    defaults = {"LOADED_AT": "CURRENT_TIMESTAMP()"}
    for policy in SchemaDrift:
        found = compared(SAME, target, defaults, target_defaults=["loaded_at"], schema_drift=policy)
        assert found == Comparison(defaults=("LOADED_AT",))
        assert "the export lacks LOADED_AT" in refusal(SAME, target, defaults, schema_drift=policy)
    without = refusal(SAME, target, target_defaults=["loaded_at"])
    assert "target_defaults lists LOADED_AT, which the export lacks and which has no DEFAULT" in without


def test_a_default_is_not_taken_for_a_column_that_the_export_has() -> None:
    exported, target = {**SAME, "loaded_at": "int"}, {**TARGET, "LOADED_AT": "NUMBER(38,0)"}
    assert compared(exported, target, {"LOADED_AT": "7"}, target_defaults=["loaded_at"]) == Comparison()
    target["LOADED_AT"] = "BOOLEAN"
    assert "LOADED_AT: int into BOOLEAN" in refusal(
        exported, target, {"LOADED_AT": "TRUE"}, error=TypesLoseValuesError, target_defaults=["loaded_at"]
    )
