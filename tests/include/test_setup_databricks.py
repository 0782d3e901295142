"""The asset bundle: what `databricks bundle deploy` makes of it is what Airflow relies on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_share.render import set_up_files
from data_share.share_file import DEFAULT, share_file

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = PROJECT / "include" / "databricks"


@pytest.fixture(scope="module")
def bundle() -> Any:
    return yaml.safe_load(set_up_files(DEFAULT, share_file().shares)["databricks/databricks.yml"])


@pytest.fixture
def job(bundle: Any) -> dict[str, Any]:
    return dict(bundle["resources"]["jobs"]["export_dataset"])


def test_the_sql_is_uploaded_with_the_bundle(bundle: Any, job: dict[str, Any]) -> None:
    files = [task["sql_task"]["file"]["path"] for task in job["tasks"] if "sql_task" in task]
    assert [Path(file).stem for file in files] == ["plan_export", "export_dataset"]
    for file in files:
        sql = (FOLDER / file).resolve()
        assert sql.is_file()
        # A file outside of these folders is not uploaded, and the CLI refuses the bundle.
        assert any(sql.is_relative_to((FOLDER / path).resolve()) for path in bundle["sync"]["paths"])


def test_an_export_is_never_repeated_to_the_same_path(job: dict[str, Any]) -> None:
    for task in job["tasks"]:
        # A condition is no work that could be repeated.
        assert task["max_retries"] == 0 if "sql_task" in task else "condition_task" in task


def test_a_run_too_many_waits(job: dict[str, Any]) -> None:
    assert job["queue"] == {"enabled": True}


def test_the_time_out_of_a_dataset_is_the_one_that_counts(job: dict[str, Any]) -> None:
    from data_share.datasets import Dataset

    [longest] = [limit.le for limit in Dataset.model_fields["export_timeout_minutes"].metadata if hasattr(limit, "le")]
    assert longest * 60 < job["timeout_seconds"]


def test_each_variable_is_explained_and_used(bundle: Any) -> None:
    text = (FOLDER / "databricks.yml").read_text()
    used = set(re.findall(r"\$\{var\.(\w+)\}", text))
    assert used == set(bundle["variables"])
    docs = (PROJECT / "docs" / "databricks.md").read_text()
    for name, variable in bundle["variables"].items():
        assert variable["description"].strip()
        assert "default" not in variable, "a forgotten value must be an error, not a job that runs as somebody else"
        assert f"BUNDLE_VAR_{name}" in docs


def test_dev_is_a_copy_of_ones_own_and_the_default(bundle: Any) -> None:
    dev, prod = bundle["targets"]["dev"], bundle["targets"]["prod"]
    assert (dev["mode"], dev["default"]) == ("development", True)
    assert "default" not in prod, "nobody deploys to production by leaving a word out"
    # All that dev asks for is the warehouse.
    assert set(bundle["variables"]) - set(dev["variables"]) == {"warehouse_id"}


def test_in_prod_airflow_starts_runs_and_another_principal_exports(bundle: Any) -> None:
    prod = bundle["targets"]["prod"]
    assert prod["mode"] == "production"
    # One copy, whoever deploys it: the CLI asks for this in production.
    assert "current_user" not in prod["workspace"]["root_path"]
    exporter = {"service_principal_name": "${var.export_service_principal}"}
    assert prod["run_as"] == exporter
    assert prod["permissions"] == [{**exporter, "level": "CAN_VIEW"}], "it must be able to read the SQL"
    assert prod["resources"]["jobs"]["export_dataset"] == {
        "permissions": [
            {"service_principal_name": "${var.airflow_service_principal}", "level": "CAN_MANAGE_RUN"},
        ]
    }
