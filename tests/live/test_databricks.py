"""The Jobs API does what the product relies on, with a copy of the export job."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.databricks.exceptions import DatabricksApiError
from airflow.providers.databricks.hooks.databricks import DatabricksHook

from tests.contracts.conftest import until
from tests.live.accounts import DATABRICKS_CONN, LONGEST_RUN, Scratch

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def workspace(scratch: Scratch) -> DatabricksHook:
    """The provider's hook, as the product uses it."""
    return DatabricksHook(DATABRICKS_CONN, caller="LiveTest")


@pytest.fixture
def start(workspace: DatabricksHook, scratch: Scratch) -> Callable[..., int]:
    """Start a run of the scratch job that exports to a place of its own."""

    def run(token: str | None = None, **parameters: str) -> int:
        key = uuid.uuid4().hex
        given = {
            "dataset": "live",
            "source_table": scratch.settings.dataset.source_table,
            "run_key": key,
            "export_path": f"{scratch.url}jobs/{key}/1/",
            "proof": "checksums",
            **parameters,
        }
        body: dict[str, Any] = {"job_id": scratch.job_id, "job_parameters": given}
        return int(workspace.run_now(body | ({"idempotency_token": token} if token else {})))

    return run


@pytest.fixture
def ended(workspace: DatabricksHook) -> Callable[[int], dict[str, Any]]:
    """Wait for a run's end."""

    def look(run_id: int) -> dict[str, Any] | None:
        run = workspace.get_run(run_id)
        over = run["state"]["life_cycle_state"] in ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")
        return dict(run) if over else None

    return lambda run_id: dict(until(lambda: look(run_id), LONGEST_RUN))


def test_a_token_starts_one_run(
    workspace: DatabricksHook, start: Callable[..., int], ended: Callable[[int], dict[str, Any]]
) -> None:
    token = uuid.uuid4().hex
    run_id = start(token)
    assert start(token) == run_id
    run = ended(run_id)
    assert run["state"]["result_state"] == "SUCCESS"
    assert start(token) == run_id, "also when the run has ended"
    given = {parameter["name"]: parameter["value"] for parameter in run["job_parameters"]}
    assert given["export_path"].endswith("/1/")
    assert given["dataset"] == "live"


@pytest.mark.assumption("queue_start_time")
def test_runs_over_the_limit_wait_in_the_queue(
    start: Callable[..., int], ended: Callable[[int], dict[str, Any]], answer: Callable[[object], None]
) -> None:
    runs = [ended(run_id) for run_id in [start(), start(), start()]]
    assert {run["state"]["result_state"] for run in runs} == {"SUCCESS"}
    tasks = sorted((run["tasks"][0] for run in runs), key=lambda task: int(task["start_time"]))
    begin = int(tasks[0]["start_time"])
    spans = [(int(task["start_time"]) - begin, int(task["end_time"]) - begin) for task in tasks]
    answer(f"start and end of three tasks, in milliseconds after the first start: {spans}")
    for one, next_one in itertools.pairwise(tasks):
        assert one["end_time"] <= next_one["start_time"], "the job takes one run at a time"


def test_a_run_is_cancelled(
    workspace: DatabricksHook, start: Callable[..., int], ended: Callable[[int], dict[str, Any]]
) -> None:
    run_id = start()
    workspace.cancel_run(run_id)
    assert ended(run_id)["state"]["result_state"] == "CANCELED"


@pytest.mark.assumption("failure_reason")
def test_the_reason_of_a_failure_is_in_the_output_of_its_task(
    workspace: DatabricksHook,
    start: Callable[..., int],
    ended: Callable[[int], dict[str, Any]],
    answer: Callable[[object], None],
) -> None:
    table = scratch_free_name()
    run = ended(start(source_table=table))
    assert run["state"]["result_state"] == "FAILED"
    output = workspace.get_run_output(run["tasks"][0]["run_id"])
    answer(f"error: {output.get('error', 'nothing')[:200]}")
    assert "TABLE_OR_VIEW_NOT_FOUND" in output.get("error", "")
    with pytest.raises(DatabricksApiError, match="400"):
        workspace.get_run_output(run["run_id"])


def test_an_unknown_run_is_told(workspace: DatabricksHook) -> None:
    with pytest.raises(DatabricksApiError) as caught:
        workspace.get_run(1)
    assert caught.value.http_status_code in (400, 404)


def scratch_free_name() -> str:
    """Return the name of a table that does not exist, in a catalog that does."""
    return f"samples.nyctaxi.nothing_{uuid.uuid4().hex}"
