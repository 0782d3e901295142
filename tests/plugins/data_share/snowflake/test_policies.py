"""What the loader can know of policies: their names, the plan, and values that it wrote and reads again."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from data_share.column_types import SYNONYMS, described_type
from data_share.snowflake.policies import (
    Samples,
    describe_policies,
    has_row_access_policy,
    hidden_rows,
    masking_policies,
    sample_values,
)
from data_share.sync import ROWS_HIDDEN

SIZES = {
    "NUMBER": ["NUMBER(1,0)", "NUMBER(1,1)", "NUMBER(2,1)", "NUMBER(38,0)", "NUMBER(38,37)", "NUMBER(10,2)"],
    "VARCHAR": ["VARCHAR(1)", "VARCHAR(3)", "VARCHAR(16777216)", "VARCHAR(9) COLLATE 'de'"],
    "BINARY": ["BINARY(1)", "BINARY(8388608)"],
    "TIME": ["TIME(0)"],
    "TIMESTAMP_NTZ": ["TIMESTAMP_NTZ(0)", "TIMESTAMP_NTZ(9)"],
}


@pytest.mark.parametrize("kind", [text for name in SYNONYMS for text in (name, *SIZES.get(name, []))])
def test_each_type_has_two_different_values_that_fit(kind: str) -> None:
    found = sample_values(kind)
    assert found is not None
    assert found[0] != found[1]
    type_ = described_type(kind)
    for value in found:
        if type_.kind == "NUMBER":
            digits = Decimal(value).as_tuple()
            assert -digits.exponent == type_.scale  # type: ignore[operator]
            assert len(digits.digits) <= (type_.size or 0)
        if type_.kind == "VARCHAR":
            assert 1 <= len(value.strip("'")) <= (type_.size or 100)
        if type_.kind == "BINARY":
            assert len(re.findall("[0-9]{2}", value)) <= (type_.size or 100)


def test_of_a_type_that_is_not_known_nothing_is_written() -> None:
    columns = {"K": "NUMBER(38,0)", "PLACE": "GEOGRAPHY", 'a"b': "VARCHAR"}
    samples = Samples(columns)
    assert (samples.unknown, samples.names) == (["PLACE"], '"K", "a""b"')
    assert samples.rows.startswith("SELECT 4711, '4711 Ada")
    assert "PLACE" not in samples.rows + samples.counts
    read = {name.upper(): 1 for name in re.findall(r"AS (sample_\w+)", samples.counts)}
    assert len(read) == 4
    assert samples.altered(read) == []
    assert samples.altered({**read, "SAMPLE_1_0": 0}) == ['a"b']
    assert samples.altered({**read, "SAMPLE_0_1": 2}) == ["K"], "one for all values"


def test_policies_are_read_from_what_snowflake_describes() -> None:
    described = [
        {"name": "K", "policy name": None},
        {"name": "NAME", "policy name": "DB.S.MASK"},
        {"name": "an older answer has no such column"},
    ]
    assert masking_policies(described) == {"NAME": "DB.S.MASK"}
    plain = [{"operation": "TableScan", "objects": "DB.S.ROWACCESSPOLICY"}, {"operation": "Result", "objects": None}]
    assert not has_row_access_policy(plain)
    # The column has this name in the documentation of the command, and the other one in that of the policies.
    for column in ("objects", "object"):
        assert has_row_access_policy([*plain, {"operation": "DynamicSecureView", column: "T (+ RowAccessPolicy)"}])
    masked = {"NAME": "DB.S.MASK"}
    assert describe_policies("t", masked, is_filtered=True) == (
        "t column NAME has the masking policy DB.S.MASK; t has a row access policy"
    )
    assert describe_policies("t", masked, is_filtered=False) == "t column NAME has the masking policy DB.S.MASK"
    assert describe_policies("t", {}, is_filtered=False) == ""


def test_what_a_publish_has_counted_is_read_from_its_refusal() -> None:
    assert hidden_rows(f"Numeric value '{ROWS_HIDDEN}0, 7 of 9' is not recognized") == (0, 7, 9)
    assert hidden_rows("NULL result in a non-nullable column") is None
