"""
The official SDK against the emulator: that it can be driven, and that its answers have the fields of the reference.

The SDK's data classes are made from the published API, so they say which fields there are, of which type, and which
values the enumerations have.
"""

from __future__ import annotations

import dataclasses
import enum
import time
import types
import typing
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from databricks.sdk.errors import (
    InvalidParameterValue,
    OperationFailed,
    PermissionDenied,
    RequestLimitExceeded,
    ResourceDoesNotExist,
    Unauthenticated,
)
from databricks.sdk.service import jobs
from databricks.sdk.service.jobs import RunLifeCycleState, RunResultState

from tests.emulators.databricks.conftest import (
    BUNDLE,
    CLIENT_ID,
    CLIENT_SECRET,
    PROJECT,
    TOKEN,
    WorkspaceServer,
    wait_for,
)

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

SQL_FILE = PROJECT / "include" / "sql" / "databricks" / "export_dataset.sql"
RATE_LIMIT = {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "Rate limit exceeded."}

# Fields of the reference that no run of this kind has: compute that is not a SQL warehouse, schedules, deployments,
# policies, other kinds of tasks, settings that nobody made.
NOT_OF_A_RUN = {
    "attempt_number",
    "cluster_instance",
    "cluster_spec",
    "deployment_id",
    "description",
    "duration_target",
    "effective_performance_target",
    "effective_usage_policy_id",
    "environment_variables",
    "git_source",
    "has_more",
    "iterations",
    "job_clusters",
    "next_page_token",
    "overriding_parameters",
    "repair_history",
    "schedule",
    "trigger_info",
    "version_id",
}
NOT_OF_A_TASK_RUN = NOT_OF_A_RUN - {"attempt_number"} | {
    "job_parameters",
    "queue_duration",
    "run_duration",
    "trigger",
}
OF_A_TASK = {
    "attempt_number",
    "cleanup_duration",
    "email_notifications",
    "end_time",
    "execution_duration",
    "max_retries",
    "resolved_values",
    "run_id",
    "run_if",
    "run_page_url",
    "setup_duration",
    "sql_task",
    "start_time",
    "state",
    "status",
    "task_key",
    "timeout_seconds",
}


@pytest.fixture(scope="module")
def shared(lake: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceServer]:
    """A workspace for all tests of this module."""
    server = WorkspaceServer(tmp_path_factory.mktemp("databricks"), lake, BUNDLE)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def no_configuration_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keeps profiles and variables of the SDK out of the tests."""
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none.cfg"))
    for name in ("HOST", "TOKEN", "CLIENT_ID", "CLIENT_SECRET", "CONFIG_PROFILE", "AUTH_TYPE"):
        monkeypatch.delenv(f"DATABRICKS_{name}", raising=False)


@pytest.fixture
def workspace(shared: WorkspaceServer) -> Iterator[WorkspaceServer]:
    """The shared workspace, without orders left over."""
    yield shared
    shared.order("release")
    shared.order("token_lifetime", seconds=3600)
    assert shared.client.delete("/_sandbox/faults").status_code == 204


@pytest.fixture
def client(workspace: WorkspaceServer) -> WorkspaceClient:
    return WorkspaceClient(host=workspace.url, token=TOKEN)


@pytest.fixture
def make_job(client: WorkspaceClient) -> Iterator[Callable[..., int]]:
    """Makes jobs, and deletes them at the end."""
    made: list[int] = []

    def make(name: str, **settings: Any) -> int:
        sql_task = jobs.SqlTask(warehouse_id="w", file=jobs.SqlTaskFile(path=str(SQL_FILE)))
        tasks = [jobs.Task(task_key="task", sql_task=sql_task)]
        job_id = client.jobs.create(name=name, tasks=tasks, **settings).job_id
        assert job_id is not None
        made.append(job_id)
        return job_id

    yield make
    for job_id in made:
        client.jobs.cancel_all_runs(job_id=job_id)
        client.jobs.delete(job_id)


def check(kind: Any, value: Any, where: str) -> None:
    """
    Check that a value is what a type of the SDK says, so that it would understand all of it.

    :param where: path to the value, for the message.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (kind,) = [argument for argument in arguments if argument is not type(None)]
        check(kind, value, where)
    elif origin is list:
        assert isinstance(value, list), where
        for number, item in enumerate(value):
            check(arguments[0], item, f"{where}[{number}]")
    elif origin is dict:
        for name, item in value.items():
            check(arguments[1], item, f"{where}.{name}")
    elif dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        for name, item in value.items():
            assert name in hints, f"{where}.{name} is not in the reference"
            check(hints[name], item, f"{where}.{name}")
    elif issubclass(kind, enum.Enum):
        assert value in {member.value for member in kind}, where
    else:
        assert type(value) is kind, f"{where} is {value!r}"


def names(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


# Fields


def test_a_run_has_the_fields_of_the_reference(workspace: WorkspaceServer, parameters: dict[str, str]) -> None:
    run_id = workspace.run_now(parameters)
    workspace.ended(run_id)

    run = workspace.get("jobs/runs/get", run_id=run_id, include_resolved_values="true")
    check(jobs.Run, run, "run")
    assert set(run) == names(jobs.Run) - NOT_OF_A_RUN
    plan, changed, export = run["tasks"]
    assert set(plan) == OF_A_TASK
    assert set(changed) == OF_A_TASK - {"sql_task", "max_retries"} | {"condition_task", "depends_on"}
    assert set(export) == OF_A_TASK | {"depends_on"}
    assert export["resolved_values"]["sql_task"]["parameters"]["data_path"] == f"{parameters['export_path']}data/"
    assert changed["resolved_values"]["condition_task"] == {"left": "full", "right": "nothing"}

    for task in run["tasks"]:
        of_task = workspace.run(task["run_id"])
        check(jobs.Run, of_task, "task run")
        assert set(of_task) == names(jobs.Run) - NOT_OF_A_TASK_RUN
        assert (of_task["job_run_id"], of_task["run_name"]) == (run_id, task["task_key"])
        output = workspace.get("jobs/runs/get-output", run_id=task["run_id"])
        check(jobs.RunOutput, output, "output")
        assert output["metadata"] == of_task

    listed = workspace.get("jobs/runs/list", limit=1, expand_tasks="true")
    check(jobs.ListRunsResponse, listed, "list")
    for task in run["tasks"]:
        del task["resolved_values"]
    assert listed["runs"] == [run | {"has_more": False}]


def test_a_run_of_several_tasks_has_the_fields_of_the_reference(
    workspace: WorkspaceServer, client: WorkspaceClient, tmp_path: Path
) -> None:
    (tmp_path / "plan.sql").write_text("SELECT 'nothing' AS mode")
    sql_task = jobs.SqlTask(warehouse_id="w", file=jobs.SqlTaskFile(path=str(tmp_path / "plan.sql")))
    condition = jobs.ConditionTask(
        op=jobs.ConditionTaskOp.NOT_EQUAL, left="{{tasks.plan.output.first_row.mode}}", right="nothing"
    )
    tasks = [
        jobs.Task(task_key="plan", sql_task=sql_task),
        jobs.Task(task_key="if", depends_on=[jobs.TaskDependency("plan")], condition_task=condition),
        jobs.Task(task_key="after", depends_on=[jobs.TaskDependency("if", outcome="true")], sql_task=sql_task),
    ]
    job_id = client.jobs.create(name="several tasks", tasks=tasks).job_id
    assert job_id is not None
    run = client.jobs.run_now(job_id).result(timeout=timedelta(seconds=20))
    told = workspace.get("jobs/runs/get", run_id=run.run_id, include_resolved_values="true")
    check(jobs.Run, told, "run")
    check(jobs.ListRunsResponse, workspace.get("jobs/runs/list", job_id=job_id, expand_tasks="true"), "list")
    for task in told["tasks"]:
        check(jobs.RunOutput, workspace.get("jobs/runs/get-output", run_id=task["run_id"]), "output")
    _, decided, after = client.jobs.get_run(run.run_id or 0, include_resolved_values=True).tasks or []
    assert decided.condition_task is not None
    assert decided.condition_task.outcome == "false"
    assert decided.resolved_values is not None
    assert decided.resolved_values.condition_task == jobs.ResolvedConditionTaskValues("nothing", "nothing")
    assert after.state is not None
    assert after.state.result_state == RunResultState.EXCLUDED
    client.jobs.delete(job_id)


def test_active_queued_and_failed_runs_have_the_fields_of_the_reference(
    workspace: WorkspaceServer, make_job: Callable[..., int]
) -> None:
    job_id = make_job("states", max_concurrent_runs=1)
    workspace.order("hold", at="start")
    running, skipped, queued = (
        workspace.post("jobs/run-now", job_id=job_id, queue={"enabled": enabled})["run_id"]
        for enabled in (False, False, True)
    )
    workspace.held(running)
    for run_id in (running, skipped, queued):
        check(jobs.Run, workspace.run(run_id), "run")
    assert workspace.run(running)["status"] == {"state": "RUNNING"}
    workspace.order("release")
    for run_id in (running, queued):
        assert workspace.result(run_id) == ("INTERNAL_ERROR", "FAILED")  # there are no parameters
        check(jobs.Run, workspace.run(run_id), "run")


def test_jobs_have_the_fields_of_the_reference(workspace: WorkspaceServer) -> None:
    job = workspace.get("jobs/get", job_id=workspace.job_id)
    check(jobs.Job, job, "job")
    assert set(job) == {"job_id", "created_time", "creator_user_name", "run_as_user_name", "settings"}
    check(jobs.ListJobsResponse, workspace.get("jobs/list", expand_tasks="true"), "list")


# Jobs


def test_jobs_are_created_told_listed_and_deleted(
    workspace: WorkspaceServer, client: WorkspaceClient, make_job: Callable[..., int]
) -> None:
    parameter = jobs.JobParameterDefinition(name="dataset", default="weather")
    job_id = make_job("of the sdk", parameters=[parameter], queue=jobs.QueueSettings(enabled=True))

    job = client.jobs.get(job_id)
    assert job.settings is not None
    assert (job.settings.name, job.settings.max_concurrent_runs, job.settings.parameters) == (
        "of the sdk",
        1,
        [parameter],
    )
    assert [found.job_id for found in client.jobs.list(name="OF THE SDK")] == [job_id]
    assert {found.job_id for found in client.jobs.list()} == {job_id, workspace.job_id}
    with pytest.raises(InvalidParameterValue, match="At least one task"):
        client.jobs.create(name="empty")


def test_lists_come_in_pages(workspace: WorkspaceServer, client: WorkspaceClient, make_job: Callable[..., int]) -> None:
    made = [make_job(f"job {number}") for number in range(4)]
    assert sorted(job.job_id or 0 for job in client.jobs.list(limit=2)) == sorted([*made, workspace.job_id])
    # The SDK leaves this out: the second page from a place instead of a token.
    everything = [job["job_id"] for job in workspace.get("jobs/list")["jobs"]]
    assert [job["job_id"] for job in workspace.get("jobs/list", offset=2, limit=2)["jobs"]] == everything[2:4]

    workspace.order("fail_next", count=5)
    runs = [client.jobs.run_now(made[0], queue=jobs.QueueSettings(enabled=True)).run_id for _ in range(5)]
    for run_id in runs:
        workspace.ended(run_id)
    found = list(client.jobs.list_runs(job_id=made[0], limit=2))
    assert sorted(run.run_id or 0 for run in found) == sorted(runs)
    starts = [run.start_time or 0 for run in found]
    assert starts == sorted(starts, reverse=True)
    for bound in (starts[2], starts[2] + 1):
        later = [run.start_time for run in client.jobs.list_runs(job_id=made[0], start_time_from=bound)]
        assert later == [start for start in starts if start >= bound]
        earlier = [run.start_time for run in client.jobs.list_runs(job_id=made[0], start_time_to=bound)]
        assert earlier == [start for start in starts if start <= bound]
    assert list(client.jobs.list_runs(job_id=made[0], run_type=jobs.RunType.SUBMIT_RUN)) == []
    assert list(client.jobs.list_runs(job_id=made[1])) == []


# Runs


def test_a_run_is_waited_for(workspace: WorkspaceServer, client: WorkspaceClient, parameters: dict[str, str]) -> None:
    run = client.jobs.run_now(workspace.job_id, job_parameters=parameters).result(timeout=timedelta(seconds=20))

    assert run.state is not None
    assert (run.state.life_cycle_state, run.state.result_state) == (
        RunLifeCycleState.TERMINATED,
        RunResultState.SUCCESS,
    )
    assert {parameter.name: parameter.value for parameter in run.job_parameters or []} == parameters
    assert run.run_page_url == f"{workspace.url}/?o=900800700600#job/{workspace.job_id}/run/{run.run_id}"


def test_a_failed_run_is_an_error_and_its_reason_is_in_the_output(
    workspace: WorkspaceServer, client: WorkspaceClient, parameters: dict[str, str]
) -> None:
    waiting = client.jobs.run_now(workspace.job_id, job_parameters=parameters | {"source_table": "main.weather.x"})
    run_id = waiting.run_id
    workspace.ended(run_id)
    with pytest.raises(OperationFailed, match="Task export failed with message: Workload failed"):
        waiting.result()
    run = client.jobs.get_run(run_id)
    task = next(task for task in run.tasks or [] if task.task_key == "export")
    assert task.run_id not in (None, run_id)
    output = client.jobs.get_run_output(task.run_id or 0)
    assert (output.error or "").startswith("[TABLE_OR_VIEW_NOT_FOUND]")
    with pytest.raises(InvalidParameterValue, match="multiple tasks is not supported"):
        client.jobs.get_run_output(run_id)


def test_a_run_is_cancelled(workspace: WorkspaceServer, client: WorkspaceClient, parameters: dict[str, str]) -> None:
    workspace.order("hold", at="start")
    run_id = client.jobs.run_now(workspace.job_id, job_parameters=parameters).run_id
    workspace.held(run_id)
    assert [run.run_id for run in client.jobs.list_runs(active_only=True)] == [run_id]

    cancelled = client.jobs.cancel_run(run_id)
    workspace.ended(run_id)
    run = cancelled.result()
    assert run.state is not None
    assert (run.state.result_state, run.state.user_cancelled_or_timedout) == (RunResultState.CANCELED, True)


def test_over_the_limit_a_run_is_queued_or_skipped(
    workspace: WorkspaceServer, client: WorkspaceClient, make_job: Callable[..., int]
) -> None:
    job_id = make_job("one at a time", max_concurrent_runs=1)
    workspace.order("hold", at="start")
    first = client.jobs.run_now(job_id).run_id
    workspace.held(first)

    skipped = client.jobs.run_now(job_id).result()  # it has ended: that is no error to the SDK
    assert skipped.state is not None
    assert skipped.state.life_cycle_state == RunLifeCycleState.SKIPPED
    assert skipped.state.result_state == RunResultState.MAXIMUM_CONCURRENT_RUNS_REACHED
    queued = client.jobs.get_run(client.jobs.run_now(job_id, queue=jobs.QueueSettings(enabled=True)).run_id)
    assert queued.status is not None
    assert queued.status.queue_details is not None
    assert queued.status.queue_details.code == jobs.QueueDetailsCodeCode.MAX_CONCURRENT_RUNS_REACHED
    client.jobs.cancel_all_runs(all_queued_runs=True)
    assert workspace.result(queued.run_id or 0) == ("TERMINATED", "CANCELED")
    assert workspace.run(first)["state"]["life_cycle_state"] == "RUNNING"


def test_a_token_names_one_run_for_ever(workspace: WorkspaceServer, client: WorkspaceClient) -> None:
    token = "x" * 64
    workspace.order("fail_next")
    run_id = client.jobs.run_now(workspace.job_id, idempotency_token=token).run_id
    workspace.ended(run_id)
    again = client.jobs.run_now(workspace.job_id, idempotency_token=token, job_parameters={"dataset": "another"})
    assert again.run_id == run_id  # also when it failed, and whatever else is asked for
    with pytest.raises(InvalidParameterValue, match="64"):
        client.jobs.run_now(workspace.job_id, idempotency_token="x" * 65)


# Errors


def test_errors_are_the_exceptions_of_the_sdk(workspace: WorkspaceServer, client: WorkspaceClient) -> None:
    with pytest.raises(ResourceDoesNotExist, match="Job 123 does not exist"):
        client.jobs.get(123)
    with pytest.raises(ResourceDoesNotExist, match="Run 123 does not exist"):
        client.jobs.get_run(123)
    for refused in (lambda: client.jobs.run_now(123), lambda: client.jobs.cancel_run(123)):
        with pytest.raises(InvalidParameterValue, match="123 does not exist"):
            refused()
    with pytest.raises(PermissionDenied, match="Invalid access token"):
        WorkspaceClient(host=workspace.url, token="wrong").jobs.get(workspace.job_id)
    with pytest.raises(Unauthenticated, match="Credential was not sent"):
        WorkspaceClient(host=workspace.url, username="ada", password="x").jobs.get(workspace.job_id)


def test_too_many_requests_are_sent_again_after_the_time_that_the_answer_names(
    workspace: WorkspaceServer, client: WorkspaceClient
) -> None:
    action = {"status": 429, "json": RATE_LIMIT, "headers": {"Retry-After": "1"}}
    workspace.fault(path="/jobs/get$", action=action)
    began = time.monotonic()
    assert client.jobs.get(workspace.job_id).job_id == workspace.job_id
    assert time.monotonic() - began >= 1

    workspace.fault(path="/jobs/get$", times=100, action=action)
    impatient = WorkspaceClient(config=Config(host=workspace.url, token=TOKEN, retry_timeout_seconds=1))
    with pytest.raises(TimeoutError) as caught:
        impatient.jobs.get(workspace.job_id)
    assert isinstance(caught.value.__cause__, RequestLimitExceeded)


# Service principals


def test_a_service_principal_signs_in(workspace: WorkspaceServer) -> None:
    issued = workspace.orders()["oauth_tokens"]
    client = WorkspaceClient(host=workspace.url, client_id=CLIENT_ID, client_secret=CLIENT_SECRET)

    assert client.config.auth_type == "oauth-m2m"
    assert client.jobs.get(workspace.job_id).job_id == workspace.job_id
    workspace.order("fail_next")
    run_id = client.jobs.run_now(workspace.job_id).run_id
    assert client.jobs.get_run(run_id).creator_user_name == CLIENT_ID
    workspace.ended(run_id)
    assert workspace.orders()["oauth_tokens"] == issued + 1  # one token for all calls

    with pytest.raises(ValueError, match="invalid_client: Client authentication failed"):
        WorkspaceClient(host=workspace.url, client_id=CLIENT_ID, client_secret="wrong").jobs.get(1)


def test_a_token_that_ends_soon_is_renewed_and_one_that_ended_is_refused(workspace: WorkspaceServer) -> None:
    def sign_in() -> WorkspaceClient:
        return WorkspaceClient(host=workspace.url, client_id=CLIENT_ID, client_secret=CLIENT_SECRET)

    issued = workspace.orders()["oauth_tokens"]
    workspace.order("token_lifetime", seconds=30)  # the SDK takes a token for expired 40 seconds before its end
    client = sign_in()
    calls = 3
    for _ in range(calls):
        assert client.jobs.get(workspace.job_id).job_id == workspace.job_id
    assert workspace.orders()["oauth_tokens"] >= issued + calls

    workspace.order("token_lifetime", seconds=1)
    token = sign_in().config.oauth_token().access_token
    call = {"url": f"{workspace.url}/api/2.2/jobs/list", "headers": {"Authorization": f"Bearer {token}"}}
    refused = wait_for(lambda: (answer := httpx.get(**call)).status_code == 403 and answer)
    assert refused.json() == {"error_code": 403, "message": "Invalid Token"}
    with pytest.raises(PermissionDenied, match="Invalid Token"):
        WorkspaceClient(host=workspace.url, token=token).jobs.get(workspace.job_id)


def test_a_token_outlasts_a_restart_and_is_of_one_workspace(
    serve: Callable[..., WorkspaceServer], workspace: WorkspaceServer, tmp_path: Path
) -> None:
    first = serve(tmp_path / "one")
    token = WorkspaceClient(host=first.url, client_id=CLIENT_ID, client_secret=CLIENT_SECRET).config.oauth_token()
    first.stop()
    second = serve(tmp_path / "one")
    assert WorkspaceClient(host=second.url, token=token.access_token).jobs.get(second.job_id).job_id == second.job_id
    with pytest.raises(PermissionDenied, match="Invalid access token"):
        WorkspaceClient(host=workspace.url, token=token.access_token).jobs.get(workspace.job_id)


@pytest.mark.parametrize(
    ("fields", "basic", "status", "error"),
    [
        ({"grant_type": "client_credentials", "scope": "all-apis"}, ("nobody", "x"), 401, "invalid_client"),
        ({"grant_type": "client_credentials", "scope": "all-apis"}, None, 401, "invalid_client"),
        ({"scope": "all-apis"}, (CLIENT_ID, CLIENT_SECRET), 400, "invalid_request"),
        ({"grant_type": "password", "scope": "all-apis"}, (CLIENT_ID, CLIENT_SECRET), 400, "unsupported_grant_type"),
        ({"grant_type": "client_credentials", "scope": "sql"}, (CLIENT_ID, CLIENT_SECRET), 400, "invalid_scope"),
    ],
)
def test_no_token_without_the_right_request(
    workspace: WorkspaceServer, fields: dict[str, str], basic: tuple[str, str] | None, status: int, error: str
) -> None:
    answer = httpx.post(f"{workspace.url}/oidc/v1/token", data=fields, auth=basic)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


def test_the_secret_may_be_in_the_form_but_the_form_may_not_be_json(workspace: WorkspaceServer) -> None:
    form = {
        "grant_type": "client_credentials",
        "scope": "all-apis",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }
    token = httpx.post(f"{workspace.url}/oidc/v1/token", data=form).json()
    assert {name: token[name] for name in ("token_type", "expires_in", "scope")} == {
        "token_type": "Bearer",
        "expires_in": 3600,
        "scope": "all-apis",
    }
    assert httpx.post(f"{workspace.url}/oidc/v1/token", json=form).json()["error"] == "invalid_request"
