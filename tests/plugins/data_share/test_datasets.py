"""Dataset files: what is accepted, and how a wrong one is reported without stopping the others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.dag_processing.processor import _serialize_dags
from pydantic import ValidationError

from data_share.datasets import DATASETS_FOLDER, InvalidDatasetDag, InvalidDatasetError, read_dataset, read_datasets

PROJECT = Path(__file__).resolve().parents[3]
VALID = {
    "description": "Tides by harbour.",
    "source_table": "main.sea.tides",
    "target_table": "tides",
    "load_mode": "replace",
    "required_columns": ["harbour"],
}
LEFT_OUT = object()


def write(folder: Path, stem: str = "tides", **changes: Any) -> Path:
    """Write a dataset file that is right but for the changes."""
    fields = {key: value for key, value in {**VALID, **changes}.items() if value is not LEFT_OUT}
    return write_text(folder, yaml.safe_dump(fields), stem)


def write_text(folder: Path, text: str, stem: str = "tides") -> Path:
    path = folder / "include" / "datasets" / f"{stem}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def problem_with(path: Path) -> str:
    """Return what is said about a file that is not valid."""
    with pytest.raises(InvalidDatasetError) as caught:
        read_dataset(path)
    return str(caught.value)


def test_the_datasets_of_this_project_are_valid() -> None:
    datasets, invalid = read_datasets()
    assert invalid == []
    assert "shared_forecasts" in [dataset.name for dataset in datasets]
    assert len(datasets) == len(list(DATASETS_FOLDER.iterdir()))


def test_a_file_becomes_a_dataset_named_after_it(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path, checks={"harbour_short": "LENGTH(harbour) < 40"}, schedule="0 5 * * *"))
    assert (dataset.name, dataset.dag_id) == ("tides", "sync_tides")
    assert dataset.required_columns == ("harbour",)
    assert dataset.checks == {"harbour_short": "LENGTH(harbour) < 40"}
    assert dataset.schedule == "0 5 * * *"
    assert not dataset.allow_empty


def test_a_dataset_is_frozen(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path))
    with pytest.raises(ValidationError, match="frozen"):
        dataset.target_table = "other"  # type: ignore[misc]


@pytest.mark.parametrize("schedule", [None, "@daily", "*/15 * * * *"])
def test_a_schedule_is_nothing_a_preset_or_a_cron_expression(tmp_path: Path, schedule: str | None) -> None:
    assert read_dataset(write(tmp_path, schedule=schedule)).schedule == schedule


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("colour", "blue", "Extra inputs are not permitted (found: 'blue')"),
        ("source_table", LEFT_OUT, "Field required (found: nothing)"),
        ("load_mode", "truncate", "(found: 'truncate')"),
        ("description", "", "at least 1 character"),
        ("source_table", "main.tides", "should match pattern"),
        ("source_table", "main.sea.tides; DROP TABLE x", "should match pattern"),
        ("source_table", "main.sea.`tides`", "should match pattern"),
        ("target_table", "tides; DROP TABLE x", "should match pattern"),
        ("target_table", "tides\n", "should match pattern"),
        ("target_table", "a.b.c.d", "should match pattern"),
        ("target_table", "1tides", "should match pattern"),
        ("schedule", "every day", "'every day' is neither a cron expression nor one of"),
        ("schedule", "@sometimes", "neither a cron expression"),
        ("required_columns", [], "at least 1 item"),
        ("required_columns.1", ["harbour", "a OR 1=1"], "should match pattern"),
        ("checks.above", {"above": "depth > 0; DROP TABLE x"}, "should match pattern"),
        ("checks.above", {"above": "   "}, "at least 1 character"),
        ("checks.bad name'.[key]", {"bad name'": "depth > 0"}, "should match pattern"),
        ("export_timeout_minutes", 0, "greater than or equal to 1"),
        ("export_timeout_minutes", 1441, "less than or equal to 1440"),
        ("allow_empty", "perhaps", "valid boolean"),
        ("name", "tides", "the file's name is the dataset's name"),
    ],
)
def test_an_error_names_file_field_and_reason(tmp_path: Path, field: str, value: Any, reason: str) -> None:
    problem = problem_with(write(tmp_path, **{field.split(".")[0]: value}))
    first_line, second_line, *others = problem.splitlines()
    assert first_line == "include/datasets/tides.yaml is not a valid dataset file:"
    assert second_line.startswith(f"  {field}: ")
    assert reason in second_line
    assert others == []


def test_each_wrong_field_has_its_own_line(tmp_path: Path) -> None:
    problem = problem_with(write(tmp_path, load_mode="truncate", source_table=LEFT_OUT))
    assert [line.split(":")[0].strip() for line in problem.splitlines()[1:]] == ["source_table", "load_mode"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("description: [", "it cannot be read as YAML: while parsing"),
        ("- main.sea.tides", "it must hold fields"),
        ("", "it must hold fields"),
        ("just words", "it must hold fields"),
    ],
)
def test_a_file_that_holds_no_fields_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    problem = problem_with(write_text(tmp_path, text))
    assert problem.startswith("include/datasets/tides.yaml is not a valid dataset file:")
    assert reason in problem


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    assert "it cannot be read as YAML" in problem_with(path)


@pytest.mark.parametrize("name", ["Tides", "1tides", "tides-of-may", "t" * 61])
def test_a_file_name_that_is_no_dataset_name_is_refused(tmp_path: Path, name: str) -> None:
    assert f"  name: String should match pattern '^[a-z][a-z0-9_]{{0,59}}$' (found: '{name}')" in problem_with(
        write(tmp_path, name)
    )


def test_an_invalid_file_leaves_the_others_valid(tmp_path: Path) -> None:
    write(tmp_path, "a_valid")
    bad = write(tmp_path, "b_bad", load_mode="truncate")
    write(tmp_path, "c_valid")
    datasets, invalid = read_datasets(bad.parent)
    assert [dataset.name for dataset in datasets] == ["a_valid", "c_valid"]
    assert [error.path for error in invalid] == [bad]


def test_a_file_with_another_ending_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path)
    other = path.rename(path.with_suffix(".yml"))
    assert [(error.path, error.problems) for error in read_datasets(path.parent)[1]] == [
        (other, ["the file's name must end in .yaml"])
    ]


@pytest.fixture
def project_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the DAGs and what they read, and have the datasets read from the copy."""
    for folder in ("dags", "include"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(read_datasets, "__defaults__", (tmp_path / "include" / "datasets",))
    return tmp_path


@pytest.mark.parametrize("name", ["b_bad", "bad name", "Bädname", "b" * 250])
def test_airflow_shows_an_invalid_dataset_as_one_import_error_and_keeps_the_others(
    project_copy: Path, name: str
) -> None:
    write(project_copy, name, load_mode="truncate")
    bag = DagBag(project_copy / "dags" / "sync_datasets.py", bundle_path=project_copy, bundle_name="copy")
    serialized, errors = _serialize_dags(bag, structlog.get_logger())

    assert bag.import_errors == {}
    assert [dag.dag_id for dag in serialized] == ["sync_shared_forecasts"]
    assert list(errors) == [f"include/datasets/{name}.yaml"]
    [error] = errors.values()
    assert f"include/datasets/{name}.yaml is not a valid dataset file" in error
    assert "load_mode: Input should be 'replace'" in error
    assert "(found: 'truncate')" in error


def test_the_stand_in_of_an_invalid_dataset_keeps_the_dataset_file_as_its_own(tmp_path: Path) -> None:
    dag = InvalidDatasetDag(InvalidDatasetError(write(tmp_path), ["load_mode: wrong"]))
    dag.relative_fileloc = "sync_datasets.py"
    assert dag.relative_fileloc == "include/datasets/tides.yaml"
