"""How the columns of a source fit their target, where the decision is not that of the columns alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from data_share.datasets import Dataset
from data_share.describe import Description
from data_share.fit import Fit, fit_of

SOURCE = {"id": "bigint", "born": "decimal(12,2)"}


def dataset(**fields: Any) -> Dataset:
    given = {"name": "people", "description": "Made by a test.", "load_mode": "replace", "required_columns": ("id",)}
    return Dataset.model_validate(
        {**given, "source_table": "main.care.people", "target_table": "people", "allow_empty": True, **fields}
    )


def fitted(target: dict[str, str] | None, source: dict[str, str] = SOURCE, *, rows: int = 0, **fields: Any) -> Fit:
    description = Description(
        dataset="people",
        source_table="main.care.people",
        rows=rows,
        column_types=json.dumps([{"name": name, "type": kind} for name, kind in source.items()]),
        columns_that_stay=(),
        source_condition="",
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
