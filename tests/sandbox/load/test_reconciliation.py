"""What was exported, what was loaded and what was checked must agree, or nothing is published."""

from __future__ import annotations

import io
import re
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_share.datasets import Dataset
from data_share.snowflake.check import CheckFailedError
from data_share.snowflake.load import ManifestError
from tests.sandbox.load.driver import Row, Run, Share

pytestmark = pytest.mark.sandbox

ROWS: list[Row] = [{"k": key, "name": f"row {key}", "amount": float(key)} for key in range(10)]


@pytest.fixture
def dataset(a_share: Share) -> Dataset:
    """A dataset that was synced once."""
    made = a_share.dataset()
    a_share.write(made, ROWS[:3])
    a_share.sync(made)
    return made


def exported(share: Share, dataset: Dataset, rows: list[Row], **params: Any) -> Run:
    share.write(dataset, rows)
    run = share.run(dataset, **params)
    share.export(dataset, run)
    return run


def change_manifest(share: Share, run: Run, **values: Any) -> None:
    """Let the manifest of an export say something else."""
    [path] = share.files.glob(f"{run.export_path}manifest/part-*")
    table = pq.read_table(io.BytesIO(share.files.cat_file(path)))
    for name, value in values.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), [[value]])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    share.files.pipe_file(path, buffer.getvalue())


def failure(share: Share, dataset: Dataset, run: Run, error: type[Exception] = CheckFailedError) -> str:
    """Run the steps of a sync that must fail; return what it says. Nothing that is published may change."""
    before = share.everything(dataset)
    with pytest.raises(error) as caught:
        share.steps(run)
    assert share.everything(dataset) == before
    assert "The target is as it was." in str(caught.value)
    return str(caught.value)


def failed_checks(message: str) -> list[str]:
    return re.findall(r"^- (\w+):", message, re.MULTILINE)


# ---- exported = loaded


@pytest.mark.parametrize("row_count", [2, 4])
def test_another_row_count_than_the_manifests(a_share: Share, dataset: Dataset, row_count: int) -> None:
    run = exported(a_share, dataset, ROWS[:3])
    change_manifest(a_share, run, row_count=row_count)
    names = ["rows_match_manifest", "rows_parsed_match_manifest", "rows_loaded_match_manifest"]
    assert failed_checks(failure(a_share, dataset, run)) == names


def test_another_number_of_files_than_the_manifests(a_share: Share, dataset: Dataset) -> None:
    run = exported(a_share, dataset, ROWS[:3])
    change_manifest(a_share, run, file_count=2)
    assert failed_checks(failure(a_share, dataset, run)) == ["files_match_manifest"]


def test_a_file_that_is_gone_is_missed(a_share: Share, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulators.databricks.parquet.MAX_ROWS_PER_FILE", 2)
    run = exported(a_share, dataset, ROWS[:5])
    files = sorted(a_share.files.glob(f"{run.export_path}data/part-*"))
    assert len(files) == 3
    a_share.files.rm(files[-1])
    assert "files_match_manifest" in failed_checks(failure(a_share, dataset, run))


def test_a_file_of_somebody_else_is_noticed(a_share: Share, dataset: Dataset) -> None:
    run = exported(a_share, dataset, ROWS[:3])
    [path] = a_share.files.glob(f"{run.export_path}data/part-*")
    a_share.files.pipe_file(f"{path.rpartition('/')[0]}/other.parquet", a_share.files.cat_file(path))
    assert failed_checks(failure(a_share, dataset, run)) == [
        "rows_match_manifest",
        "rows_parsed_match_manifest",
        "rows_loaded_match_manifest",
        "files_match_manifest",
    ]


@pytest.mark.parametrize(
    ("count", "check"),
    [("rows_parsed", "rows_parsed_match_manifest"), ("rows_loaded", "rows_loaded_match_manifest")],
)
def test_parsed_and_loaded_rows_are_compared_each(a_share: Share, dataset: Dataset, count: str, check: str) -> None:
    run = exported(a_share, dataset, ROWS[:3])
    a_share.step(run, "copy_into_staging")
    run.xcoms["copy_into_staging", "return_value"][count] += 1
    with pytest.raises(CheckFailedError) as caught:
        a_share.step(run, "check_staging")
    assert failed_checks(str(caught.value)) == [check]


def test_a_manifest_of_another_run_or_dataset(a_share: Share, dataset: Dataset) -> None:
    run = exported(a_share, dataset, ROWS[:3])
    change_manifest(a_share, run, run_key="20200101T000000_00000000")
    assert "run key '20200101T000000_00000000'" in failure(a_share, dataset, run, ManifestError)
    change_manifest(a_share, run, run_key=run.key, dataset="other")
    assert "is of dataset 'other'" in failure(a_share, dataset, run, ManifestError)


def test_an_empty_export_with_leave_empties_the_target(a_share: Share) -> None:
    dataset = a_share.dataset(allow_empty=True)
    a_share.write(dataset, ROWS[:3])
    a_share.sync(dataset)
    a_share.write(dataset, [])
    row = a_share.sync(dataset).ledger_row
    assert a_share.target(dataset) == []
    assert (row["rows_exported"], row["rows_deleted"], row["rows_in_target"]) == (0, 3, 0)


# ---- keys and required columns


@pytest.fixture
def keyed(a_share: Share) -> Dataset:
    made = a_share.dataset(load_mode="merge", merge_keys=("k", "name"), required_columns=("amount",))
    a_share.write(made, ROWS[:3])
    a_share.sync(made)
    return made


def test_merge_keys_that_are_there_twice(a_share: Share, keyed: Dataset) -> None:
    run = exported(a_share, keyed, [*ROWS[:3], {**ROWS[0], "amount": 9.0}])
    message = failure(a_share, keyed, run)
    assert failed_checks(message) == ["merge_keys_unique"]
    assert 'COUNT(*) = COUNT(DISTINCT "K", "NAME")' in message


@pytest.mark.parametrize("key", ["k", "name"])
def test_a_merge_key_that_is_null(a_share: Share, keyed: Dataset, key: str) -> None:
    run = exported(a_share, keyed, [*ROWS[:3], {**ROWS[5], key: None}])
    assert f"{key}_not_null" in failed_checks(failure(a_share, keyed, run))


def test_a_required_column_that_is_null(a_share: Share, keyed: Dataset) -> None:
    run = exported(a_share, keyed, [*ROWS[:3], {**ROWS[5], "amount": None}])
    message = failure(a_share, keyed, run)
    assert failed_checks(message) == ["amount_not_null"]
    assert "Not true for 1 row(s), e.g. K=5, NAME=row 5, AMOUNT=None" in message


# ---- the dataset's own checks


def test_a_failed_check_shows_how_many_rows_and_five_of_them(a_share: Share) -> None:
    dataset = a_share.dataset(checks={"small": "amount < 3", "any": "COUNT(*) > 0"})
    message = failure(a_share, dataset, exported(a_share, dataset, ROWS))
    assert failed_checks(message) == ["small"]
    assert "small: amount < 3. Not true for 7 row(s), e.g. " in message
    shown = re.findall(r"K=(\d+), NAME=row \d+, AMOUNT=(\d+)\.0", message)
    assert len(shown) == 5
    assert all(key == amount and int(key) >= 3 for key, amount in shown)


def test_a_check_of_the_whole_table_shows_no_rows(a_share: Share) -> None:
    dataset = a_share.dataset(checks={"many": "COUNT(*) > 100", "mean": "AVG(amount) < 2"})
    message = failure(a_share, dataset, exported(a_share, dataset, ROWS))
    assert "\n- many: COUNT(*) > 100\n- mean: AVG(amount) < 2\n" in message


def test_an_unknown_answer_is_no_passed_check(a_share: Share) -> None:
    dataset = a_share.dataset(checks={"small": "amount < 3"})
    message = failure(a_share, dataset, exported(a_share, dataset, [{**ROWS[0], "amount": None}]))
    assert "Not true for 1 row(s)" in message


# ---- the change of the row count


@pytest.fixture
def watched(a_share: Share) -> Dataset:
    """A dataset of 4 rows that may change by half."""
    made = a_share.dataset(max_row_change_percent=50.0)
    a_share.write(made, ROWS[:4])
    a_share.sync(made)
    return made


@pytest.mark.parametrize("rows", [2, 3, 4, 6])
def test_a_usual_change_of_the_row_count(a_share: Share, watched: Dataset, rows: int) -> None:
    a_share.write(watched, ROWS[:rows])
    assert a_share.sync(watched).ledger_row["rows_in_target"] == rows


@pytest.mark.parametrize("rows", [1, 7])
def test_an_unusual_change_of_the_row_count(a_share: Share, watched: Dataset, rows: int) -> None:
    message = failure(a_share, watched, exported(a_share, watched, ROWS[:rows]))
    assert failed_checks(message) == ["row_change_acceptable"]
    assert message.endswith("\nIf the source is right, start the sync again with accept_row_change: true.")
    accepted = a_share.sync(watched, accept_row_change=True)
    assert accepted.ledger_row["rows_in_target"] == rows
    # From now on, this is what a sync is compared with.
    a_share.sync(watched)


def test_the_first_sync_has_nothing_to_be_compared_with(a_share: Share) -> None:
    dataset = a_share.dataset(max_row_change_percent=1.0)
    a_share.write(dataset, ROWS)
    a_share.sync(dataset)
    assert len(a_share.target(dataset)) == 10


# ---- a target that others write to


@pytest.mark.parametrize("delete_missing", [False, True])
def test_keys_that_the_target_has_twice_or_not_at_all_are_counted_right(a_share: Share, delete_missing: bool) -> None:
    dataset = a_share.dataset(load_mode="merge", merge_keys=("k", "name"), delete_missing=delete_missing)
    twice = {"k": 1, "name": "a", "amount": 1.0}
    strangers = [{"k": None, "name": "a", "amount": 2.0}, {"k": 9, "name": "a", "amount": 3.0}]
    a_share.insert(dataset, [twice, twice, *strangers])
    exported = [{"k": 1, "name": "a", "amount": 4.0}, {"k": 2, "name": "a", "amount": 5.0}]
    a_share.write(dataset, exported)

    preview = a_share.run(dataset, dry_run=True)
    a_share.sync(dataset, preview)
    row = a_share.sync(dataset).ledger_row

    # What mirrors the source has each key once.
    expected = exported if delete_missing else [exported[0], *exported, *strangers]
    assert sorted(a_share.target(dataset), key=str) == sorted(expected, key=str)
    counts = {name: row[name] for name in ("rows_inserted", "rows_updated", "rows_deleted")}
    updated, deleted = (1, 3) if delete_missing else (2, 0)
    assert counts == {"rows_inserted": 1, "rows_updated": updated, "rows_deleted": deleted}
    assert {name: preview.ledger_row[name] for name in counts} == counts
    assert row["rows_in_target"] == len(expected)
