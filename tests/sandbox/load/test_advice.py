"""What a failure tells to do is done, and the sync passes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowSkipException

from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from tests.sandbox.load.driver import COLUMNS, SCHEMA, Row, Run, Share

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

ROWS: list[Row] = [{"k": key, "name": f"row {key}", "amount": float(key)} for key in range(4)]
WIDER = SCHEMA.append(pa.field("note", pa.string()))
GOT = (
    "If the source has it, and the target has got it since the last publish, the job did not know that: start the sync "
    "again, which asks Snowflake for the columns. "
)
# Its new name may have stayed in Databricks.
RENAMED = "A column that was renamed in the source is renamed in the target (ALTER TABLE ... RENAME COLUMN). "
WIDE_ROWS: list[Row] = [{**row, "note": "new"} for row in ROWS]


def published(share: Share, dataset: Dataset) -> tuple[list[Row], list[Row]]:
    return share.target(dataset, order="k"), share.ledger(dataset)


def refusal(share: Share, dataset: Dataset, run: Run | None = None, **params: Any) -> ShareError:
    """Do a sync that must fail, and change nothing that is published; an export that `run` has is loaded as it is."""
    before = published(share, dataset)
    with pytest.raises(ShareError) as caught:
        share.sync(dataset, **params) if run is None else share.steps(run)
    assert published(share, dataset) == before
    assert str(caught.value).endswith(caught.value.what_to_do)
    return caught.value


def reloading(share: Share, dataset: Dataset, run_key: str, **params: Any) -> Run:
    """Begin a sync that loads an earlier export again."""
    run = share.run(dataset, reload_run_key=run_key, **params)
    with pytest.raises(AirflowSkipException):
        share.step(run, "export_to_s3")
    return run


# ---- columns


@pytest.mark.others_nightly
@pytest.mark.parametrize("policy", ["strict", "ignore_new", "add_new"])
def test_a_missing_column_is_brought_back_or_dropped_whatever_the_policy_is(a_share: Share, policy: str) -> None:
    dataset = a_share.dataset({**COLUMNS, "note": "VARCHAR"}, schema_drift=policy)
    a_share.write(dataset, ROWS)
    advice = refusal(a_share, dataset).what_to_do
    assert advice == (
        f"Bring NOTE back in the source, or take it out of {dataset.target_table} (ALTER TABLE ... DROP COLUMN). "
        + ("" if policy == "add_new" else GOT)
        + (RENAMED if policy == "ignore_new" else "")
        + "Then start the sync again."
    )
    a_share.write(dataset, WIDE_ROWS, WIDER)
    a_share.sync(dataset)
    assert a_share.target(dataset) == WIDE_ROWS
    a_share.write(dataset, ROWS)
    a_share.query(f"ALTER TABLE {dataset.target_table} DROP COLUMN note")
    a_share.sync(dataset)
    assert a_share.target(dataset) == ROWS


def test_a_column_that_the_target_has_got_is_not_missing_in_the_source(a_share: Share) -> None:
    dataset = a_share.dataset(schema_drift="ignore_new")
    a_share.remember(dataset)
    a_share.write(dataset, WIDE_ROWS, WIDER)
    a_share.sync(dataset)
    a_share.query(f"ALTER TABLE {dataset.target_table} ADD COLUMN note VARCHAR")
    a_share.write(dataset, WIDE_ROWS[1:], WIDER)
    assert GOT in refusal(a_share, dataset).what_to_do
    a_share.sync(dataset)
    assert a_share.target(dataset) == WIDE_ROWS[1:]


def test_a_missing_column_that_is_required_leaves_the_dataset_file_too(a_share: Share) -> None:
    dataset = a_share.dataset({**COLUMNS, "note": "VARCHAR"}, required_columns=("k", "note"))
    a_share.write(dataset, ROWS)
    assert "Then also remove NOTE from required_columns and merge_keys" in refusal(a_share, dataset).what_to_do
    a_share.query(f"ALTER TABLE {dataset.target_table} DROP COLUMN note")
    a_share.sync(a_share.edit(dataset, required_columns=("k",)))
    assert a_share.target(dataset) == ROWS


@pytest.mark.parametrize(("policy", "loaded"), [("add_new", WIDE_ROWS), ("ignore_new", ROWS)])
def test_a_new_column_is_let_in_by_a_policy(a_share: Share, policy: str, loaded: list[Row]) -> None:
    dataset = a_share.dataset()
    a_share.write(dataset, WIDE_ROWS, WIDER)
    error = refusal(a_share, dataset)
    assert error.code is FailureCode.SCHEMA_DRIFT
    assert "Set schema_drift in the dataset file: add_new adds new columns to the target" in error.what_to_do
    assert "ignore_new leaves them in Databricks" in error.what_to_do
    a_share.sync(a_share.edit(dataset, schema_drift=policy))
    assert a_share.target(dataset) == loaded


def test_a_new_column_that_the_load_finds_is_let_in_by_a_policy(a_share: Share) -> None:
    dataset = a_share.dataset({**COLUMNS, "note": "VARCHAR"})
    a_share.write(dataset, WIDE_ROWS, WIDER)
    run = a_share.run(dataset)
    a_share.export(dataset, run)
    a_share.query(f"ALTER TABLE {dataset.target_table} DROP COLUMN note")
    assert refusal(a_share, dataset, run).what_to_do == (
        f"Set schema_drift in the dataset file: add_new adds new columns to {dataset.target_table}; ignore_new leaves "
        "them out. Then start the sync again."
    )
    a_share.sync(a_share.edit(dataset, schema_drift="ignore_new"))
    assert a_share.target(dataset) == ROWS


def test_a_new_column_that_cannot_be_added_is_left_out(a_share: Share) -> None:
    dataset = a_share.dataset(schema_drift="add_new")
    too_long = "n" * 256
    a_share.write(dataset, [{**row, too_long: 1} for row in ROWS], SCHEMA.append(pa.field(too_long, pa.int64())))
    advice = refusal(a_share, dataset).what_to_do
    assert "ignore_new" in advice
    assert "add_new" not in advice
    a_share.sync(a_share.edit(dataset, schema_drift="ignore_new"))
    assert a_share.target(dataset) == ROWS


@pytest.mark.parametrize("policy", ["strict", "ignore_new", "add_new"])
def test_a_renamed_column_is_renamed_in_the_target(a_share: Share, policy: str) -> None:
    dataset = a_share.dataset({**COLUMNS, "remark": "VARCHAR"}, schema_drift=policy)
    a_share.write(dataset, WIDE_ROWS, WIDER)
    assert "renamed in the target (ALTER TABLE ... RENAME COLUMN)" in refusal(a_share, dataset).what_to_do
    a_share.query(f"ALTER TABLE {dataset.target_table} RENAME COLUMN remark TO note")
    a_share.sync(dataset)
    assert a_share.target(dataset) == WIDE_ROWS


# ---- rows


@pytest.fixture
def watched(a_share: Share) -> Dataset:
    """A dataset of 4 rows that may change by half."""
    made = a_share.dataset(max_row_change_percent=50.0)
    a_share.write(made, ROWS)
    a_share.sync(made)
    return made


@pytest.mark.tier("nightly")
def test_an_empty_export_is_allowed_and_the_next_one_with_rows_passes(a_share: Share, watched: Dataset) -> None:
    a_share.write(watched, [])
    assert refusal(a_share, watched).what_to_do == (
        "Fill the source, and start the sync again. If it may be empty, set allow_empty: true in the dataset file, and "
        "start the sync with accept_row_change: true, as max_row_change_percent forbids the loss of all rows."
    )
    allowed = a_share.edit(watched, allow_empty=True)
    assert "accept_row_change: true" in refusal(a_share, allowed).what_to_do
    a_share.sync(allowed, accept_row_change=True)
    assert a_share.target(allowed) == []
    a_share.sync(allowed)
    a_share.write(allowed, ROWS[:3])
    a_share.sync(allowed)
    assert a_share.target(allowed) == ROWS[:3]
    a_share.write(allowed, ROWS[:1])
    assert refusal(a_share, allowed).code is FailureCode.CHECKS_FAILED


def test_an_empty_export_is_allowed(a_share: Share) -> None:
    dataset = a_share.dataset(max_row_change_percent=100.0)
    a_share.write(dataset, ROWS)
    a_share.sync(dataset)
    a_share.write(dataset, [])
    assert refusal(a_share, dataset).what_to_do.endswith("set allow_empty: true in the dataset file.")
    a_share.sync(a_share.edit(dataset, allow_empty=True))
    assert a_share.target(dataset) == []


@pytest.mark.others_nightly
@pytest.mark.parametrize(
    ("wrong", "fields", "mended"),
    [
        ({"k": 1, "name": "twice"}, {"load_mode": "merge", "merge_keys": ("k",)}, {"merge_keys": ("k", "name")}),
        ({"k": 7, "name": None}, {"required_columns": ("k", "name")}, {"required_columns": ("k",)}),
        ({"k": 7, "name": None}, {"load_mode": "merge", "merge_keys": ("k", "name")}, {"merge_keys": ("k",)}),
    ],
    ids=["key twice", "required column with a NULL", "key with a NULL"],
)
def test_rows_that_the_dataset_file_forbids_are_allowed_there(
    a_share: Share, wrong: Row, fields: dict[str, Any], mended: dict[str, Any]
) -> None:
    dataset = a_share.dataset(**fields)
    rows = [*ROWS, {**wrong, "amount": 7.0}]
    a_share.write(dataset, rows)
    error = refusal(a_share, dataset)
    assert error.what_to_do.startswith("Correct the source, or")
    assert next(iter(mended)) in error.what_to_do
    a_share.sync(a_share.edit(dataset, **mended))
    assert a_share.target(dataset, order="amount, name") == rows


# ---- files


@pytest.mark.parametrize(
    ("lost", "allow_empty", "told"),
    [
        ("data", False, "found 0 file(s), while the manifest counts 4 exported row(s)"),
        # Leave for an empty export is none for lost data.
        ("data", True, "found 0 file(s), while the manifest counts 4 exported row(s)"),
        ("manifest", False, "left 0 manifest rows"),
    ],
)
def test_files_that_are_lost_are_exported_anew(a_share: Share, lost: str, allow_empty: bool, told: str) -> None:
    dataset = a_share.dataset(allow_empty=allow_empty)
    a_share.write(dataset, ROWS)
    run = a_share.run(dataset)
    a_share.export(dataset, run)
    a_share.files.rm(f"{run.export_path}{lost}/", recursive=True)
    error = refusal(a_share, dataset, run)
    assert told in error.message
    assert error.what_to_do.startswith("Start the sync again: it exports to a new path.")
    assert "allow_empty" not in error.what_to_do
    assert error.retriable
    a_share.sync(dataset)
    assert a_share.target(dataset) == ROWS


@pytest.mark.others_nightly
@pytest.mark.parametrize("lost", ["data", "manifest"])
def test_files_of_an_earlier_export_that_are_lost_are_exported_anew(a_share: Share, lost: str) -> None:
    dataset = a_share.dataset()
    a_share.write(dataset, ROWS)
    first = a_share.sync(dataset)
    a_share.files.rm(f"{first.export_path}{lost}/", recursive=True)
    error = refusal(a_share, dataset, reloading(a_share, dataset, first.key))
    assert error.what_to_do == "Start a sync without reload_run_key: it exports again."
    assert not error.retriable, "the same sync would load the same export"
    a_share.sync(dataset)


@pytest.mark.tier("nightly")
def test_a_file_that_somebody_added_is_not_exported_again(a_share: Share) -> None:
    dataset = a_share.dataset()
    a_share.write(dataset, ROWS)
    run = a_share.run(dataset)
    a_share.export(dataset, run)
    [path] = a_share.files.glob(f"{run.export_path}data/part-*")
    a_share.files.pipe_file(f"{path.rpartition('/')[0]}/other.parquet", a_share.files.cat_file(path))
    assert "start a new sync, without reload_run_key." in refusal(a_share, dataset, run).what_to_do
    a_share.sync(dataset)
    assert a_share.target(dataset) == ROWS


# ---- an earlier export


@pytest.mark.tier("nightly")
def test_an_earlier_export_without_a_later_column_is_no_matter_of_the_source(a_share: Share) -> None:
    dataset = a_share.dataset(schema_drift="add_new")
    a_share.write(dataset, ROWS)
    first = a_share.sync(dataset)
    a_share.write(dataset, WIDE_ROWS, WIDER)
    a_share.sync(dataset)
    advice = refusal(a_share, dataset, reloading(a_share, dataset, first.key)).what_to_do
    assert "start one without reload_run_key, or take NOTE out of" in advice
    assert "source" not in advice
    a_share.sync(dataset)
    a_share.query(f"ALTER TABLE {dataset.target_table} DROP COLUMN note")
    a_share.steps(reloading(a_share, dataset, first.key))
    assert a_share.target(dataset) == ROWS
