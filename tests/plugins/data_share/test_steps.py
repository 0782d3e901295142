"""The steps of a sync are written once: what cannot import the list holds the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from data_share.outcome.diagnose import failure_without_report
from data_share.steps import BEFORE_FINISH, FINISH_SYNC, PUBLISH, STEPS, as_json

PROJECT = Path(__file__).resolve().parents[3]
IDS = [step.id for step in STEPS]


def test_the_dag_of_a_sync_has_these_steps_in_this_order(sync_datasets: ModuleType) -> None:
    dag = sync_datasets.sync_dag(sync_datasets.datasets[0])
    assert [task.task_id for task in dag.topological_sort()] == IDS
    assert (*BEFORE_FINISH, FINISH_SYNC.id) == tuple(IDS)
    assert BEFORE_FINISH[-1] == PUBLISH.id


def test_people_read_five_titles() -> None:
    assert [step.title for step in STEPS] == ["Export", "Export", "Load", "Check", "Publish", "Finish"]
    assert len({step.doing for step in STEPS}) == len(STEPS)


@pytest.mark.parametrize("path", ["plugins/data_share/status_page/steps.json", "examples/backend/steps.json"])
def test_the_pages_have_the_same_list(path: str) -> None:
    assert json.loads((PROJECT / path).read_text()) == as_json()


@pytest.mark.parametrize("path", ["examples/backend/airflow_client.py", "examples/express/sync.mjs"])
def test_the_clients_know_the_tasks(path: str) -> None:
    [line] = re.findall(r"^(?:const )?STEPS = [(\[](.*)[)\]];?$", (PROJECT / path).read_text(), re.MULTILINE)
    assert json.loads(f"[{line}]") == IDS


def test_the_last_step_reports_when_no_other_did() -> None:
    assert failure_without_report("all_done").step == FINISH_SYNC.id
