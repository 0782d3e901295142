"""The double of Airflow keeps to what Airflow does, where the steps of a sync rely on it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from data_share.databricks.follow import DatabricksRunSensor
from tests.airflow_double import DagRun, TaskInstance, UnansweredPullError


class Leave(BaseOperator):
    """Leaves an XCom in its first attempt, and nothing later."""

    def execute(self, context: Any) -> None:
        if context["ti"].try_number == 1:
            context["ti"].xcom_push(key="first", value=(1, 2))


@pytest.fixture
def run() -> DagRun:
    with DAG("leaving", schedule=None) as dag:
        Leave(task_id="leave")
        DatabricksRunSensor(
            task_id="wait",
            databricks_conn_id="databricks_default",
            run_id="{{ ti.xcom_pull(task_ids='leave', key='first') }}",
            timeout_seconds=1,
        )
    return DagRun(dag=dag)


@pytest.mark.parametrize("name", ["xcom_pull", "xcom_push", "get_task_states"])
def test_a_task_instance_takes_nothing_that_airflows_does_not_take(name: str) -> None:
    ours = inspect.signature(getattr(TaskInstance, name)).parameters
    theirs = inspect.signature(getattr(RuntimeTaskInstance, name)).parameters
    assert set(ours) - {"self"} <= set(theirs)


def test_xcoms_are_gone_when_the_process_of_another_attempt_starts(run: DagRun) -> None:
    run.xcoms["wait", "return_value"] = "another task's"
    run.task("leave")
    assert run.xcoms["leave", "first"] == [1, 2], "as JSON has it"
    run.task("leave")
    assert list(run.xcoms) == [("wait", "return_value")]


def test_xcoms_of_a_task_that_starts_in_the_triggerer_stay(run: DagRun) -> None:
    run.xcoms["wait", "return_value"] = "of the first attempt"
    with pytest.raises(UnansweredPullError, match="without map_indexes=-1"):
        run.prepared("wait")
    assert run.xcoms["wait", "return_value"] == "of the first attempt"


def test_only_what_a_backend_can_read_is_an_xcom(run: DagRun) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        TaskInstance(run, "leave").xcom_push("key", object())


def test_an_attempt_has_an_id_of_its_own(run: DagRun) -> None:
    ids = [TaskInstance(run, "leave", number).id for number in (1, 1, 2)]
    again = TaskInstance(DagRun(dag=run.dag, run_id=run.run_id), "leave").id
    assert ids[0] == ids[1]
    assert len({*ids, again}) == 3
