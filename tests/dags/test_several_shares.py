"""The DAGs of a deployment with two shares, and of one whose share file has an error."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

from data_share import dag_defaults
from data_share.share_file import InvalidShareFileError
from tests.airflow_double import DagRun
from tests.plugins.data_share.outcome.test_events import queued_by
from tests.plugins.data_share.outcome.test_events import run as ended
from tests.shipped import left_out

pytestmark = pytest.mark.tier("full")

PROJECT = Path(__file__).resolve().parents[2]
HOUSEKEEPING = ("set_up_snowflake", "clean_up_share", "doctor")
EMEA = {
    "url": "s3://acme-emea/out/",
    "snowflake_conn_id": "snowflake_emea",
    "databricks_conn_id": "databricks_emea",
    "export_job_variable": "emea_job_id",
    "ledger_table": "emea_history",
}


@pytest.fixture
def bag_of(
    deploy: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., DagBag]]:
    """Read the DAG files of a deployment with other fields in its share file, as a process of its own would."""

    def run(**fields: Any) -> DagBag:
        shutil.copytree(PROJECT / "include", tmp_path / "include", ignore=left_out)
        file = tmp_path / "include" / "share.yaml"
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **fields}))
        dataset = (tmp_path / "include" / "datasets" / "city_temperatures.yaml").read_text()
        (tmp_path / "include" / "datasets" / "emea_temperatures.yaml").write_text(f"{dataset}\nshare: emea\n")
        deploy(file)
        importlib.reload(dag_defaults)
        return DagBag(PROJECT / "dags", bundle_path=PROJECT)

    yield run
    monkeypatch.undo()
    deploy(PROJECT / "include" / "share.yaml")
    importlib.reload(dag_defaults)


def test_each_share_has_its_dags_and_each_step_its_share(bag_of: Callable[..., DagBag]) -> None:
    bag = bag_of(shares={"emea": EMEA})
    assert bag.import_errors == {}
    assert set(HOUSEKEEPING) | {f"{name}_emea" for name in HOUSEKEEPING} < set(bag.dags)
    for dag_id, dag in bag.dags.items():
        name = "emea" if "emea" in dag_id else "default"
        shares = {task.share.name for task in dag.tasks if hasattr(task, "share")}
        shares |= {task.partial_kwargs["share"].name for task in dag.tasks if task.is_mapped}
        assert shares == {name}, dag_id
        for task in dag.tasks:
            assert getattr(task, "snowflake_conn_id", f"snowflake_{name}") == f"snowflake_{name}", (dag_id, task)
        if (macros := dag.user_defined_macros) is not None:
            assert macros["share"].name == name
    # The target of the same name belongs to another account, and is created there.
    sync = bag.dags["sync_emea_temperatures"]
    assert sync.get_task("export_to_s3").job_id == "{{ var.value.emea_job_id }}"
    assert sync.get_task("wait_for_export").databricks_conn_id == "databricks_emea"
    created = {name: DagRun(dag=bag.dags[name]).task("list_targets") for name in bag.dags if "set_up" in name}
    assert created == {
        "set_up_snowflake": ["targets/shared_forecasts.sql", "city_temperatures", "daily_observations"],
        "set_up_snowflake_emea": ["emea_temperatures"],
    }


def receivers(bag: DagBag, dag_id: str) -> tuple[str, str]:
    """The connections to which the end of a sync is sent, by the scheduler's copy of the DAG, and a missed deadline."""
    dag = bag.dags[dag_id]
    run = ended("failed")
    run.dag = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    [end] = queued_by(run, "task_failure")
    [alert] = dag.deadline
    return end.data["kwargs"]["conn_id"], alert.callback.kwargs["conn_id"]


@pytest.mark.parametrize("variables", [{}, {"EMEA__WEBHOOK_CONN_ID": "dev_emea_hook", "WEBHOOK_CONN_ID": "dev_hook"}])
def test_the_ends_of_each_share_s_syncs_go_to_its_own_webhook(
    bag_of: Callable[..., DagBag], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"DATA_SHARE_{name}", value)
    emea = {**EMEA, "webhook_conn_id": "emea_hook"}
    bag = bag_of(shares={"emea": emea}, defaults={"sync_deadline_minutes": 9})
    of_emea = variables.get("EMEA__WEBHOOK_CONN_ID", "emea_hook")
    of_top = variables.get("WEBHOOK_CONN_ID", "data_share_webhook")
    assert receivers(bag, "sync_emea_temperatures") == (of_emea, of_emea)
    assert receivers(bag, "sync_city_temperatures") == (of_top, of_top)


def test_a_share_without_a_webhook_of_its_own_has_that_of_the_top(bag_of: Callable[..., DagBag]) -> None:
    bag = bag_of(shares={"emea": EMEA}, defaults={"sync_deadline_minutes": 9}, webhook_conn_id="top_hook")
    assert receivers(bag, "sync_emea_temperatures") == ("top_hook", "top_hook")


def test_an_error_of_the_share_file_is_the_import_error_of_each_dag_file(bag_of: Callable[..., DagBag]) -> None:
    # In a process of its own, the DAG files import what fails here.
    with pytest.raises(InvalidShareFileError, match=r"share\.yaml does not .*\n  line \d+: stage: write a plain name"):
        bag_of(stage="a; DROP TABLE b", shares={"emea": EMEA})
