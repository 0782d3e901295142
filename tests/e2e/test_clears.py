"""A run that is cleared, and a step that a person marks while earlier ones work."""

from __future__ import annotations

import time

import pytest

from tests.e2e.share import DAG_ID, TARGET, RunningShare, wait_for

pytestmark = pytest.mark.tier("nightly")


def test_a_publish_that_is_marked_while_an_earlier_step_works_has_published_nothing(share: RunningShare) -> None:
    run_id = share.start_sync()
    assert share.end_of(run_id)["state"] == "success"
    published = share.xcom(run_id, "publish")
    before = (share.target(), share.ledger())

    share.hold_export("start")
    share.clear(run_id, "export_to_s3")
    share.wait_until_held(run_id)
    mark = f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/publish"
    share.airflow.ask("PATCH", mark, json={"new_state": "success"})
    wait_for(lambda: share.task_states(run_id)["publish"] == "success", "publish is marked")
    # The scheduler would have begun the last step within a second.
    time.sleep(5)
    assert share.task_states(run_id)["finish_sync"] is None, "it would tidy up while the export goes on"
    share.release_export()

    assert share.end_of(run_id)["state"] == "failed"
    tasks = share.tasks(run_id)
    assert tasks["check_staging"]["state"] == "success", "what came before the marked step has run"
    # The first time's answer is still there, and says that it is no other's.
    left = share.xcom(run_id, "publish")
    assert left == published
    assert left["task_instance_id"] != tasks["publish"]["id"]
    failure = share.xcom(run_id, "finish_sync", "failure")
    assert (failure["step"], failure["code"]) == ("publish", "RESULT_MISSING")
    assert failure["task_instance_id"] == tasks["finish_sync"]["id"]
    assert share.airflow.run(DAG_ID, run_id)["note"].startswith("publish: The step publish has published nothing")
    assert (share.target(), share.ledger()) == before
    assert [table for table in share.staging_tables() if table.startswith(TARGET.upper())] == []


@pytest.mark.parametrize("task_id", ["copy_into_staging", "publish", "finish_sync"])
def test_a_run_that_is_cleared_from_a_later_step_is_a_success_again(share: RunningShare, task_id: str) -> None:
    run_id = share.start_sync()
    assert share.end_of(run_id)["state"] == "success"
    before = (share.target(), share.ledger())

    share.clear(run_id, task_id)

    wait_for(lambda: share.airflow.run(DAG_ID, run_id)["state"] != "success", "the run starts anew")
    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)
    assert share.xcom(run_id, "publish")["task_instance_id"] == share.tasks(run_id)["publish"]["id"]
    assert (share.target(), share.ledger()) == before
