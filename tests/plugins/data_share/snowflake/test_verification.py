"""What a verification compares, and what it says of a difference."""

from __future__ import annotations

from typing import Any

import pytest

from data_share.snowflake.verification import Differences, ValuesDifferError, compared_columns, same_rows
from data_share.watermark import Published
from tests.plugins.data_share.conftest import tides

KINDS = {"HARBOUR": "VARCHAR", "DAY": "DATE", "LEVEL": "FLOAT", "TAGS": "VARIANT"}
MERGE: dict[str, Any] = {"load_mode": "merge", "merge_keys": ("harbour", "day")}
PUBLISHED = Published(
    dataset_digest="d",
    rows_digest="r",
    target="t",
    run_key="20260102T030405_0a1b2c3d",
    published_at="2026-01-02T03:05:00",
    source_version=812,
    source_committed_at="2026-01-02T02:41:00.5",
    source_has_feed=False,
    table_id="made once",
    rows_in_target=3,
    columns=None,
)


def found(counts: dict[str, int], **fields: Any) -> Differences:
    columns, _ = compared_columns(KINDS, tides(**fields))
    none = dict.fromkeys(("ROWS_DIFFERENT", "ROWS_MISSING", "ROWS_ADDED"), 0)
    return Differences.of({**none, **counts}, columns)


def test_the_types_that_cannot_be_compared_are_left_out_and_named() -> None:
    columns, not_compared = compared_columns(KINDS, tides(**MERGE))
    assert not_compared == ["TAGS"]
    assert [(column.name, column.is_key) for column in columns] == [
        ("HARBOUR", True),
        ("DAY", True),
        ("LEVEL", False),
    ]
    assert same_rows(columns) == "source.value_0 = target.value_0 AND source.value_1 = target.value_1"


def test_keys_that_cannot_be_compared_are_no_keys() -> None:
    columns, _ = compared_columns(KINDS, tides(load_mode="merge", merge_keys=("harbour", "tags")))
    assert same_rows(columns) == ""


def test_no_difference_is_none() -> None:
    assert not found({}).exist
    for name in ("ROWS_DIFFERENT", "ROWS_MISSING", "ROWS_ADDED"):
        assert found({name: 1}).exist


def test_a_row_is_named_by_its_keys_and_a_value_by_its_column() -> None:
    differences = found({"ROWS_DIFFERENT": 1, "DIFFERENT_2": 1}, **MERGE)
    named = {"NAMED_0": "Oslo", "NAMED_1": "2026-01-02"}
    row = {**named, "FOUND_IN": "both", "SOURCE_2": 1.5, "TARGET_2": None, "DIFFERENT_2": True}
    assert differences.sentence([row]) == (
        "1 row has other values, in LEVEL\n"
        "- HARBOUR=Oslo, DAY=2026-01-02: LEVEL is 1.5 in the source, None in the target"
    )


def test_rows_on_one_side_are_counted() -> None:
    differences = found({"ROWS_DIFFERENT": 1200, "ROWS_MISSING": 2, "ROWS_ADDED": 1, "DIFFERENT_2": 1200}, **MERGE)
    row = {
        "NAMED_0": "Oslo",
        "NAMED_1": None,
        "FOUND_IN": "target",
        "SOURCE_2": None,
        "TARGET_2": 1,
        "DIFFERENT_2": True,
    }
    assert differences.sentence([row]) == (
        "1,200 rows have other values, in LEVEL; the target lacks 2 rows; it has 1 row that the source lacks\n"
        "- HARBOUR=Oslo, DAY=None: only in the target"
    )


@pytest.mark.parametrize(
    ("columns", "says_which"), [((2,), True), ((0, 1, 2), False), ((), False)], ids=["one", "all", "exchanged"]
)
def test_without_keys_the_column_that_differs_tells_which_value_it_is(
    columns: tuple[int, ...], says_which: bool
) -> None:
    counts = {"ROWS_MISSING": 1, "ROWS_ADDED": 1} | {f"DIFFERENT_{number}": 2 for number in columns}
    sentence = found(counts).sentence([])
    assert ("the values that differ are in LEVEL" in sentence) == says_which
    assert sentence.startswith("the target lacks 1 row; it has 1 row that the source lacks")


def test_no_row_is_shown_at_length() -> None:
    row = {"NAMED_0": "x" * 10_000, "NAMED_1": "", "NAMED_2": 0.0, "FOUND_IN": "source"}
    assert len(found({"ROWS_MISSING": 1}).sentence([row])) < 400


def test_of_many_columns_some_are_named() -> None:
    kinds = {f"C{number}": "NUMBER" for number in range(30)}
    columns, _ = compared_columns(kinds, tides(load_mode="merge", merge_keys=("c0",)))
    counts = {f"DIFFERENT_{number}": 1 for number in range(1, 30)}
    none = {"ROWS_MISSING": 0, "ROWS_ADDED": 0}
    sentence = Differences.of({**counts, **none, "ROWS_DIFFERENT": 1}, columns).sentence([])
    assert sentence.endswith("C19, C20, 9 more")


def test_the_error_names_table_version_and_remedy() -> None:
    error = ValuesDifferError(tides(), PUBLISHED, "1 row has other values, in LEVEL", snowflake_query_id="01b2")
    assert error.message == (
        "public.tides does not hold what main.sea.tides held as of 2026-01-02 02:41 UTC (version 812), which the sync "
        "20260102T030405_0a1b2c3d has published: 1 row has other values, in LEVEL"
    )
    assert (error.code.name, error.code.repair, error.retriable) == ("VALUES_DIFFER", "full_refresh", False)
    assert error.what_to_do == "Start the sync with full_refresh: true, which replaces everything in the target."
    kept = ValuesDifferError(tides(**MERGE), PUBLISHED, "x")
    assert kept.what_to_do.endswith(
        "This also removes the rows that the source lacks, which this dataset keeps otherwise."
    )
