"""How the columns of a source fit their target, where the decision is not that of the columns alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from data_share.datasets import Dataset
from data_share.describe import Description
from data_share.fit import Fit, fit_of
from data_share.outcome.codes import FailureCode

SOURCE = {"id": "bigint", "born": "decimal(12,2)"}


def dataset(**fields: Any) -> Dataset:
    given = {"name": "people", "description": "Made by a test.", "load_mode": "replace", "required_columns": ("id",)}
    return Dataset.model_validate(
        {**given, "source_table": "main.care.people", "target_table": "people", "allow_empty": True, **fields}
    )


def fitted(target: dict[str, str] | None, exported: dict[str, str] = SOURCE, *, rows: int = 0, **fields: Any) -> Fit:
    description = Description(
        dataset="people",
        source_table="main.care.people",
        rows=rows,
        column_types=json.dumps([{"name": name, "type": kind} for name, kind in exported.items()]),
        columns_that_stay=(),
        source_condition="",
        source_version=3,
        source_committed_at=datetime(2026, 1, 1, tzinfo=UTC),
        export_reason="no published version is known",
        described_at=datetime(2026, 1, 2, tzinfo=UTC),
        run_page_url="",
    )
    described = target and [{"name": name, "type": kind, "default": None} for name, kind in target.items()]
    return fit_of(description, described or None, dataset(**fields))


# ---- a source without rows: the load compares nothing


@pytest.mark.parametrize(
    ("target", "fields", "told"),
    [
        ({"ID": "NUMBER(38,0)", "BORN": "NUMBER(38,0)"}, {}, "Values of 1 column(s) could change"),
        ({"ID": "NUMBER(38,0)", "BORN": "DATE"}, {}, "The load would fail at the first value"),
        ({"ID": "NUMBER(38,0)", "BORN": "NUMBER(12,2)", "GONE": "DATE"}, {}, "the export lacks GONE"),
        ({"ID": "NUMBER(38,0)", "GONE": "DATE"}, {"schema_drift": "add_new"}, "the export lacks GONE"),
    ],
    ids=["values change", "no cast", "a column is missing", "one is new and one is missing"],
)
def test_an_empty_source_is_not_in_the_way(target: dict[str, str], fields: dict[str, Any], told: str) -> None:
    problem = fitted(target, rows=1, **fields).problem
    assert problem is not None
    assert told in problem.message
    found = fitted(target, **fields)
    assert (found.problem, found.new_columns) == (None, {})
    [note] = found.notes
    assert note.startswith(
        "The source is empty, so its columns are not compared. Once it has rows, a sync would fail: "
    )
    assert told in note
    assert "The target is as it was" not in note


def test_the_export_job_refuses_new_columns_of_an_empty_source() -> None:
    found = fitted({"ID": "NUMBER(38,0)"})
    assert found.problem is not None
    assert "the export has born (decimal(12,2))" in found.problem.message
    assert found.notes == ()


def test_an_empty_source_adds_no_column() -> None:
    target = {"ID": "NUMBER(38,0)"}
    assert fitted(target, rows=1, schema_drift="add_new").new_columns == {"BORN": "NUMBER(12, 2)"}
    found = fitted(target, schema_drift="add_new")
    assert (found.new_columns, found.problem, found.notes) == ({}, None, ())
    assert {column.source: column.note for column in found.columns if column.state == "added"} == {
        "born": "once it has rows"
    }


def test_an_empty_source_still_has_to_create_its_target() -> None:
    assert fitted(None, create_table="from_source").new_columns == {"ID": "NUMBER(38, 0)", "BORN": "NUMBER(12, 2)"}
    refused = fitted(None, {"id": "bigint", "ID": "bigint"}, create_table="from_source").problem
    assert refused is not None
    assert "differ only by case" in refused.message


# ---- a target whose names are too long for a parameter of the export job

WIDE = {f"C{number}_{'x' * 200}": "NUMBER(38,0)" for number in range(60)}
WIDE_SOURCE = {name.lower(): "bigint" for name in WIDE}


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("policy", ["strict", "ignore_new"])
def test_a_choice_of_a_wide_source_cannot_be_exported(policy: str, rows: int) -> None:
    choice = {"source": {"hash": ["ssn"]}, "schema_drift": policy}
    target, source = {**WIDE, "SSN": "VARCHAR"}, {**WIDE_SOURCE, "ssn": "string"}
    problem = fitted(target, source, rows=rows, **choice).problem
    assert problem is not None
    assert problem.code is FailureCode.SCHEMA_DRIFT
    assert "The names of the 61 columns of people and of source in the dataset file make" in problem.message
    assert "of which 10,000 are possible" in problem.message
    assert "Export a view" in problem.what_to_do


def test_add_new_needs_no_names_of_a_wide_target() -> None:
    choice = {"source": {"exclude": ["ssn"]}, "schema_drift": "add_new"}
    assert fitted(WIDE, WIDE_SOURCE, rows=1, **choice).problem is None


def test_a_new_column_beside_a_wide_target_does_not_stay_in_databricks() -> None:
    found = fitted(WIDE, {**WIDE_SOURCE, "ssn": "string"}, rows=1, schema_drift="ignore_new")
    assert found.problem is None
    [new] = [column for column in found.columns if column.source == "ssn"]
    assert new.state == "left out"
    assert "it reaches the bucket" in new.note
    narrow = fitted({"ID": "NUMBER(38,0)"}, rows=1, schema_drift="ignore_new")
    assert [column.source for column in narrow.columns if column.state == "stays"] == ["born"]


def test_new_columns_beside_a_wide_target_are_compared_by_the_load() -> None:
    source = {**WIDE_SOURCE, "ssn": "string"}
    problem = fitted(WIDE, source, rows=1).problem
    assert problem is not None
    assert "the export has ssn (string)" in problem.message
    # Without rows, the load compares nothing, and the export job was not told the columns.
    assert fitted(WIDE, source).problem is None
