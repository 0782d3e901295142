from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import yaml

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

PROJECT = Path(__file__).parents[3]
FAILURE = "Task export failed with message: Workload failed, see run output for details."


def task_of(run: dict[str, Any], key: str) -> Any:
    return next(task for task in run["tasks"] if task["task_key"] == key)


def output_of(workspace: Any, run: dict[str, Any], key: str = "export") -> Any:
    return workspace.get("jobs/runs/get-output", run_id=task_of(run, key)["run_id"])


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle like the project's, with other settings of the job."""

    def write(**settings: Any) -> Path:
        content = yaml.safe_load((PROJECT / "include" / "databricks" / "databricks.yml").read_text())
        job = content["resources"]["jobs"]["export_dataset"]
        for task in job["tasks"]:
            if "sql_task" in task:
                file = task["sql_task"]["file"]
                file["path"] = str(PROJECT / "include" / "sql" / "databricks" / Path(file["path"]).name)
        job.update(settings)
        path = tmp_path / "databricks.yml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


# A run that goes well


def test_a_run_exports_and_tells_all_that_the_real_one_tells(
    workspace: Any, parameters: dict[str, str], files: Any
) -> None:
    answer = workspace.post("jobs/run-now", job_id=workspace.job_id, job_parameters=parameters)
    run = workspace.ended(answer["run_id"])

    assert answer["number_in_job"] == answer["run_id"]
    assert run["state"] == {
        "life_cycle_state": "TERMINATED",
        "result_state": "SUCCESS",
        "state_message": "",
        "user_cancelled_or_timedout": False,
    }
    assert run["status"] == {
        "state": "TERMINATED",
        "termination_details": {"code": "SUCCESS", "type": "SUCCESS", "message": ""},
    }
    assert run["job_parameters"] == [
        {"name": name, "default": "", "value": parameters[name]} for name in sorted(parameters)
    ]
    assert run["run_page_url"] == (
        f"http://127.0.0.1:{workspace.port}/?o=900800700600#job/{workspace.job_id}/run/{run['run_id']}"
    )
    expected = {"job_id": workspace.job_id, "run_name": "export_dataset", "run_type": "JOB_RUN"}
    assert {name: run[name] for name in expected} == expected
    assert run["trigger"] == "ONE_TIME"
    assert {run[name] for name in ("job_run_id", "number_in_job", "original_attempt_run_id")} == {run["run_id"]}
    plan, changed, export = run["tasks"]
    times = [task[time] for task in run["tasks"] for time in ("start_time", "end_time")]
    assert times == sorted(times)
    assert 0 < run["start_time"] <= times[0]
    assert times[-1] <= run["end_time"]
    assert run["run_duration"] == run["end_time"] - run["start_time"]
    assert run["execution_duration"] == 0  # of a run of several tasks, the API has only run_duration
    assert run["queue_duration"] == 0
    assert [task["task_key"] for task in run["tasks"]] == ["plan", "changed", "export"]
    for task in run["tasks"]:
        assert (task["attempt_number"], task["state"]) == (0, run["state"])
        assert task["execution_duration"] == task["end_time"] - task["start_time"]
        assert "error" not in output_of(workspace, run, task["task_key"])
    assert plan["execution_duration"] > 0
    assert export["execution_duration"] > 0
    assert len({run["run_id"], *(task["run_id"] for task in run["tasks"])}) == 4
    assert changed["condition_task"]["outcome"] == "true"
    assert export["sql_task"]["parameters"]["data_path"] == "{{job.parameters.export_path}}data/"

    path = parameters["export_path"].removeprefix("s3://")
    kinds = [file.removeprefix(path).partition("-")[0].rstrip("0123456789") for file in files.find(path)]
    assert kinds == [
        f"{folder}/{kind}"
        for folder in ("data", "manifest")
        for kind in ("_SUCCESS", "_committed_", "_started_", "part")
    ]
    (manifest,) = files.glob(f"{path}manifest/*.parquet")
    (row,) = pq.read_table(files.open(manifest)).to_pylist()
    assert (row["run_key"], row["dataset"], row["row_count"]) == (parameters["run_key"], "weather", 1461)
    assert sum(pq.read_metadata(files.open(file)).num_rows for file in files.glob(f"{path}data/*.parquet")) == 1461


# Who may ask, and for what


def test_the_token(workspace: Any) -> None:
    url = f"{workspace.url}/api/2.1/jobs/list"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": "Basic x"}).json()["message"].startswith("Credential was not sent")
    wrong = httpx.get(url, headers={"Authorization": "Bearer wrong"})
    assert (wrong.status_code, wrong.json()) == (403, {"error_code": 403, "message": "Invalid access token."})
    assert httpx.post(f"{workspace.url}/_sandbox/release").status_code == 401

    workspace.order("token", token="dapi-new")
    assert workspace.client.get("/api/2.1/jobs/list").status_code == 403
    assert httpx.get(url, headers={"Authorization": "Bearer dapi-new"}).status_code == 200


def test_pages_for_people_need_no_token_and_run_nothing(workspace: Any, parameters: dict[str, str]) -> None:
    script = "<script>alert(1)</script>"
    run_id = workspace.run_now(parameters | {"source_table": script})
    workspace.ended(run_id)

    page = httpx.get(workspace.url)
    assert f'<tr id="job/{workspace.job_id}/run/{run_id}">' in page.text
    assert "INTERNAL_ERROR FAILED" in page.text
    assert script not in page.text
    assert httpx.get(f"{workspace.url}/healthz").json() == {"status": "ok"}


def test_what_does_not_exist(workspace: Any) -> None:
    for path in ("jobs/get", "jobs/run-now", "jobs/delete", "jobs/reset"):
        assert workspace.refused(path, job_id=123) == {
            "error_code": "INVALID_PARAMETER_VALUE",
            "message": "Job 123 does not exist.",
        }
    for path in ("jobs/runs/get", "jobs/runs/get-output", "jobs/runs/cancel"):
        assert workspace.refused(path, run_id=123)["message"] == "Run 123 does not exist."
    for path in ("jobs/nothing", "jobs/update", "jobs/runs/repair", "jobs/runs/delete"):
        unknown = workspace.client.post(f"/api/2.2/{path}", json={"job_id": workspace.job_id})
        assert (unknown.status_code, unknown.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "error_code"),
    [
        ({}, "INVALID_PARAMETER_VALUE"),
        ({"job_id": "abc"}, "MALFORMED_REQUEST"),
        ({"job_id": 1.5}, "MALFORMED_REQUEST"),
        ({"job_id": 1, "job_parameters": ["a"]}, "MALFORMED_REQUEST"),
        ({"job_id": 1, "job_parameters": {"a": 1}}, "MALFORMED_REQUEST"),
        ({"job_id": 1, "idempotency_token": 5}, "MALFORMED_REQUEST"),
        ({"job_id": 1, "notebook_params": {}}, "INVALID_PARAMETER_VALUE"),
    ],
)
def test_bodies_of_the_wrong_form(workspace: Any, body: dict[str, Any], error_code: str) -> None:
    assert workspace.refused("jobs/run-now", **body)["error_code"] == error_code


@pytest.mark.parametrize("content", ["{", "[]", '"text"', b"\xff"])
def test_bodies_that_are_no_json_object(workspace: Any, content: str | bytes) -> None:
    answer = workspace.client.post("/api/2.2/jobs/run-now", content=content)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "MALFORMED_REQUEST")


# Parameters and tokens of a run


def test_parameters_that_the_job_does_not_declare_are_kept(workspace: Any, parameters: dict[str, str]) -> None:
    run = workspace.ended(workspace.run_now(parameters | {"zone": "north"}))

    assert run["state"]["result_state"] == "SUCCESS"
    assert run["job_parameters"][-1] == {"name": "zone", "value": "north"}


def test_the_same_token_is_the_same_run(workspace: Any, parameters: dict[str, str]) -> None:
    workspace.order("fail_next", message="Out of luck.")
    token = "t" * 64
    run_id = workspace.run_now(parameters, idempotency_token=token)
    assert workspace.run_now(parameters, idempotency_token=token) == run_id
    assert workspace.result(run_id) == ("TERMINATED", "FAILED")
    assert workspace.run_now(parameters, idempotency_token=token) == run_id  # it does not try again
    assert len(workspace.get("jobs/runs/list")["runs"]) == 1

    refused = workspace.refused("jobs/run-now", job_id=workspace.job_id, idempotency_token="t" * 65)
    assert (refused["error_code"], "64" in refused["message"]) == ("INVALID_PARAMETER_VALUE", True)
    assert workspace.run_now(parameters) != workspace.run_now(parameters)


# Runs that fail


def test_the_reason_of_a_failure_is_in_the_output_of_the_task(workspace: Any, parameters: dict[str, str]) -> None:
    run = workspace.ended(workspace.run_now(parameters | {"source_table": "main.weather.x"}))

    assert run["state"] == {
        "life_cycle_state": "INTERNAL_ERROR",
        "result_state": "FAILED",
        "state_message": FAILURE,
        "user_cancelled_or_timedout": False,
    }
    assert run["status"]["termination_details"] == {
        "code": "RUN_EXECUTION_ERROR",
        "type": "CLIENT_ERROR",
        "message": FAILURE,
    }
    task = task_of(run, "export")["state"]
    assert (task["life_cycle_state"], task["result_state"]) == ("TERMINATED", "FAILED")
    assert task["state_message"] == "Workload failed, see run output for details"
    output = output_of(workspace, run)
    assert output["error"].startswith(
        "[TABLE_OR_VIEW_NOT_FOUND] The table or view `main`.`weather`.`x` cannot be found. Verify the spelling"
    )
    assert output["error"].endswith("SQLSTATE: 42P01")
    assert output["metadata"]["run_id"] == task_of(run, "export")["run_id"]
    assert (
        "Retrieving the output of runs with multiple tasks is not supported"
        in (workspace.refused("jobs/runs/get-output", run_id=run["run_id"])["message"])
    )


def test_a_run_without_parameters_writes_nowhere(workspace: Any, parameters: dict[str, str]) -> None:
    for name, task, said in (
        ("source_table", "plan", "The job parameter source_table must be a table"),
        ("export_path", "export", "The parameter data_path must be a directory"),
        ("proof", "export", "The job parameter proof must be checksums or counts"),
    ):
        run = workspace.ended(workspace.run_now({key: value for key, value in parameters.items() if key != name}))
        assert said in output_of(workspace, run, task)["error"]


@pytest.mark.parametrize(
    ("order", "state", "code"),
    [
        ({}, ("TERMINATED", "FAILED"), "RUN_EXECUTION_ERROR"),
        ({"result_state": "TIMEDOUT"}, ("TERMINATED", "TIMEDOUT"), "CANCELED"),
        ({"life_cycle_state": "INTERNAL_ERROR"}, ("INTERNAL_ERROR", "FAILED"), "INTERNAL_ERROR"),
    ],
)
def test_the_next_run_fails_on_order(
    workspace: Any, parameters: dict[str, str], files: Any, order: dict[str, str], state: tuple[str, str], code: str
) -> None:
    workspace.order("fail_next", message="The warehouse is on fire.", **order)
    run = workspace.ended(workspace.run_now(parameters))

    assert (run["state"]["life_cycle_state"], run["state"]["result_state"]) == state
    assert run["state"]["state_message"] == "The warehouse is on fire."
    assert run["status"]["termination_details"]["code"] == code
    assert output_of(workspace, run, "plan")["error"] == "The warehouse is on fire."
    assert not files.exists(parameters["export_path"])
    assert workspace.result(workspace.run_now(parameters)) == ("TERMINATED", "SUCCESS")


def test_a_run_that_takes_too_long_is_stopped(
    serve: Any, bundle: Any, tmp_path: Path, parameters: dict[str, str]
) -> None:
    workspace = serve(tmp_path, bundle(timeout_seconds=1))
    workspace.order("hold", at="end")
    run = workspace.ended(workspace.run_now(parameters))

    assert (run["state"]["life_cycle_state"], run["state"]["result_state"]) == ("TERMINATED", "TIMEDOUT")
    assert run["state"]["user_cancelled_or_timedout"] is True
    assert run["status"]["termination_details"]["code"] == "CANCELED"


def test_a_task_that_takes_too_long_is_stopped(workspace: Any, parameters: dict[str, str]) -> None:
    settings = workspace.get("jobs/get", job_id=workspace.job_id)["settings"]
    settings["tasks"][-1]["timeout_seconds"] = 1
    workspace.post("jobs/reset", job_id=workspace.job_id, new_settings=settings)
    workspace.order("hold", at="end")
    state = workspace.ended(workspace.run_now(parameters))["state"]

    assert (state["life_cycle_state"], state["result_state"]) == ("TERMINATED", "TIMEDOUT")


# Runs that wait


def test_a_run_held_at_its_start_has_done_nothing(workspace: Any, parameters: dict[str, str], files: Any) -> None:
    workspace.order("hold", at="start")
    run_id = workspace.run_now(parameters)
    workspace.held(run_id)

    assert workspace.in_state(run_id, "RUNNING")["end_time"] == 0
    assert not files.exists(parameters["export_path"])
    workspace.order("release")
    assert workspace.result(run_id) == ("TERMINATED", "SUCCESS")


def test_a_run_held_at_its_end_has_done_all_and_says_running(
    workspace: Any, parameters: dict[str, str], files: Any
) -> None:
    workspace.order("hold", at="end", count=2)
    run_id = workspace.run_now(parameters)
    workspace.held(run_id)

    assert workspace.run(run_id)["state"]["life_cycle_state"] == "RUNNING"
    assert files.exists(f"{parameters['export_path']}manifest/_SUCCESS")
    assert workspace.orders()["holds"] == ["end"]
    workspace.order("release")
    assert workspace.result(run_id) == ("TERMINATED", "SUCCESS")
    assert workspace.orders()["holds"] == []
    assert workspace.result(workspace.run_now(parameters)) == ("TERMINATED", "SUCCESS")


def test_a_run_lasts_as_long_as_is_ordered(workspace: Any, parameters: dict[str, str]) -> None:
    workspace.order("run_seconds", seconds=6)
    run = workspace.ended(workspace.run_now(parameters))
    assert (run["state"]["result_state"], run["tasks"][0]["state"]["result_state"]) == ("SUCCESS", "SUCCESS")
    # The work itself takes a second, on a busy machine three.
    assert run["run_duration"] >= 6000
    workspace.order("run_seconds", seconds=60)
    run_id = workspace.run_now(parameters)
    workspace.in_state(run_id, "RUNNING")
    workspace.post("jobs/runs/cancel", run_id=run_id)
    assert workspace.result(run_id) == ("TERMINATED", "CANCELED")
    workspace.order("run_seconds", seconds=0)
    assert workspace.ended(workspace.run_now(parameters))["run_duration"] < 6000


def test_sources_change_on_order(workspace: Any, parameters: dict[str, str]) -> None:
    def version() -> int:
        run_id = workspace.ended(workspace.run_now(parameters))["run_id"]
        export = task_of(workspace.get("jobs/runs/get", run_id=run_id, include_resolved_values="true"), "export")
        assert export["state"]["result_state"] == "SUCCESS"
        return int(export["resolved_values"]["sql_task"]["parameters"]["to_version"])

    before = version()
    workspace.order("source_changes", on=True)
    assert [version(), version()] == [before + 1, before + 2]
    workspace.order("source_changes", on=False)
    assert version() == before + 2


@pytest.mark.parametrize("point", ["start", "end"])
def test_a_held_run_can_be_cancelled(workspace: Any, parameters: dict[str, str], point: str) -> None:
    workspace.order("hold", at=point)
    run_id = workspace.run_now(parameters)
    workspace.held(run_id)

    assert workspace.post("jobs/runs/cancel", run_id=run_id) == {}
    run = workspace.ended(run_id)
    assert run["state"] == {
        "life_cycle_state": "TERMINATED",
        "result_state": "CANCELED",
        "state_message": "Run cancelled.",
        "user_cancelled_or_timedout": True,
    }
    assert run["status"]["termination_details"]["code"] == "USER_CANCELED"
    assert workspace.post("jobs/runs/cancel", run_id=run_id) == {}  # nothing happens to a run that has ended
    assert workspace.orders()["held"] == []


def test_a_running_statement_can_be_cancelled(
    serve: Any, tmp_path: Path, bundle: Any, parameters: dict[str, str]
) -> None:
    endless = tmp_path / "endless.sql"
    forecasts = "IDENTIFIER(:source_table)"
    endless.write_text(
        f"INSERT OVERWRITE DIRECTORY '{parameters['export_path']}' USING PARQUET SELECT a.* "
        f"FROM {forecasts} AS a CROSS JOIN {forecasts} AS b CROSS JOIN {forecasts} AS c"
    )
    task = {
        "task_key": "export",
        "sql_task": {
            "warehouse_id": "w",
            "file": {"path": str(endless)},
        },
    }
    workspace = serve(tmp_path, bundle(tasks=[task]))
    run_id = workspace.run_now(parameters)
    workspace.in_state(run_id, "RUNNING")

    workspace.post("jobs/runs/cancel", run_id=run_id)
    run = workspace.run(run_id)
    assert run["status"]["state"] == run["state"]["life_cycle_state"]
    assert run["status"]["state"] in {"TERMINATING", "TERMINATED"}
    assert run["status"]["termination_details"]["code"] == "USER_CANCELED"  # known before the run has stopped
    assert workspace.result(run_id) == ("TERMINATED", "CANCELED")


def test_runs_over_the_limit_wait_in_the_queue(
    serve: Any, bundle: Any, tmp_path: Path, parameters: dict[str, str]
) -> None:
    workspace = serve(tmp_path, bundle(max_concurrent_runs=1))
    workspace.order("hold", at="start")
    first, second, third = (workspace.run_now(parameters) for _ in range(3))
    workspace.held(first)

    queued = workspace.run(second)
    assert queued["state"]["life_cycle_state"] == "QUEUED"
    assert queued["status"]["queue_details"]["code"] == "MAX_CONCURRENT_RUNS_REACHED"
    workspace.post("jobs/runs/cancel", run_id=third)
    assert workspace.result(third) == ("TERMINATED", "CANCELED")
    assert workspace.run(second)["state"]["life_cycle_state"] == "QUEUED", "its place in the queue was the third's"
    listed = workspace.get("jobs/runs/list", active_only="true", job_id=workspace.job_id)["runs"]
    assert [run["run_id"] for run in listed] == [second, first]
    assert "runs" not in workspace.get("jobs/runs/list", active_only="true", job_id=workspace.job_id + 1)
    assert [run["run_id"] for run in workspace.get("jobs/runs/list", completed_only=True)["runs"]] == [third]

    workspace.order("release")
    assert workspace.result(first) == ("TERMINATED", "SUCCESS")
    assert workspace.result(second) == ("TERMINATED", "SUCCESS")
    assert workspace.run(second)["queue_duration"] > 0
    assert workspace.run(first)["queue_duration"] == 0


def test_a_job_that_may_not_run_skips_its_runs(serve: Any, bundle: Any, tmp_path: Path) -> None:
    workspace = serve(tmp_path, bundle(max_concurrent_runs=0))
    assert workspace.result(workspace.run_now({})) == ("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED")


def test_runs_over_the_limit_are_skipped_without_a_queue(
    serve: Any, bundle: Any, tmp_path: Path, parameters: dict[str, str]
) -> None:
    workspace = serve(tmp_path, bundle(max_concurrent_runs=1, queue={"enabled": False}))
    workspace.order("hold", at="start")
    first = workspace.run_now(parameters)
    second = workspace.run_now(parameters)

    run = workspace.run(second)
    assert run["state"]["life_cycle_state"] == "SKIPPED"
    assert run["state"]["result_state"] == "MAXIMUM_CONCURRENT_RUNS_REACHED"
    assert run["status"]["termination_details"]["code"] == "MAX_CONCURRENT_RUNS_EXCEEDED"
    third = workspace.run_now(parameters, queue={"enabled": True})
    assert workspace.run(third)["state"]["life_cycle_state"] == "QUEUED"

    workspace.post("jobs/runs/cancel-all", job_id=workspace.job_id)
    assert {workspace.result(run_id) for run_id in (first, third)} == {("TERMINATED", "CANCELED")}
    counts = workspace.orders()["runs"]
    assert counts == {"TERMINATED/CANCELED": 2, "SKIPPED/MAXIMUM_CONCURRENT_RUNS_REACHED": 1}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("hold", {"at": "middle"}),
        ("hold", {"at": "end", "count": 0}),
        ("fail_next", {"result_state": "SAD"}),
        ("fail_next", {"massage": "x"}),
        ("token", {"token": ""}),
        ("run_seconds", {}),
        ("run_seconds", {"seconds": -1}),
        ("run_seconds", {"seconds": True}),
    ],
)
def test_orders_that_make_no_sense_are_refused(workspace: Any, name: str, body: dict[str, Any]) -> None:
    assert workspace.client.post(f"/_sandbox/{name}", json=body).status_code == 400


# Lists and jobs


@pytest.fixture
def task() -> Callable[..., dict[str, Any]]:
    """Makes a task that exports."""
    sql = PROJECT / "include" / "sql" / "databricks" / "export_dataset.sql"

    def make(key: str, **more: Any) -> dict[str, Any]:
        return {
            "task_key": key,
            "sql_task": {"warehouse_id": "w", "file": {"path": str(sql)}},
            **more,
        }

    return make


def test_jobs_that_could_not_run_are_refused(workspace: Any, task: Any) -> None:
    path = {"path": "export.sql"}
    for settings, reason in (
        ({"tasks": []}, "At least one task"),
        ({"tasks": [task("a"), task("a")]}, "a task_key of its own"),
        ({"tasks": [task("")]}, "needs a task_key"),
        ({"tasks": [task("a", depends_on=[{"task_key": "b"}])]}, "depends on b, which does not exist"),
        ({"tasks": [task("a", sql_task={"file": path})]}, "warehouse_id is missing"),
        ({"tasks": [task("a", sql_task={"warehouse_id": "w"})]}, "only tasks with sql_task.file.path"),
        ({"tasks": [task("a", run_if="ALL_DONE")]}, "no other run_if"),
        ({"tasks": [task("a", max_retries=1)]}, "no other max_retries"),
        ({"tasks": [task("a", timeout_seconds=-1)]}, "Task a: timeout_seconds"),
        ({"tasks": [task("a")], "parameters": [{"name": "x"}]}, "a name and a default"),
        ({"tasks": [task("a")], "parameters": [{"name": "x", "default": ""}] * 2}, "name of its own"),
        ({"tasks": [task("a")], "max_concurrent_runs": 1001}, "between 0 and 1000"),
        ({"tasks": [task("a")], "queue": {}}, "queue.enabled"),
        ({"tasks": [task("a")], "timeout_seconds": -1}, "timeout_seconds"),
    ):
        assert reason in workspace.refused("jobs/create", **settings)["message"]
    assert "queue.enabled" in workspace.refused("jobs/run-now", job_id=workspace.job_id, queue={})["message"]


def test_lists_come_in_pages(workspace: Any, parameters: dict[str, str]) -> None:
    assert workspace.get("jobs/runs/list") == {"has_more": False}  # without the list, as in the real service
    runs = [workspace.run_now(parameters | {"source_table": "x"}) for _ in range(5)]
    for run_id in runs:
        workspace.ended(run_id)

    seen: list[int] = []
    token = ""
    while True:
        page = workspace.get("jobs/runs/list", job_id=workspace.job_id, limit=2, page_token=token)
        seen += [run["run_id"] for run in page["runs"]]
        if not (token := page.get("next_page_token", "")):
            break
    assert len(seen) == 5
    assert set(seen) == set(runs)
    assert "tasks" not in page["runs"][0]
    assert "tasks" in workspace.get("jobs/runs/list", expand_tasks="True")["runs"][0]
    assert workspace.client.get("/api/2.1/jobs/runs/list", params={"limit": 2}).json()["has_more"] is True
    assert workspace.refused("jobs/runs/list", limit=26)["error_code"] == "INVALID_PARAMETER_VALUE"
    assert workspace.refused("jobs/list", limit=0)["error_code"] == "INVALID_PARAMETER_VALUE"
    assert len(workspace.get("jobs/runs/list", limit=0)["runs"]) == 5  # as many as there may be
    assert workspace.refused("jobs/runs/list", page_token="???")["message"] == "Invalid page token."


def test_jobs_can_be_made_reset_and_deleted(workspace: Any) -> None:
    job = workspace.get("jobs/get", job_id=workspace.job_id)
    assert [parameter["name"] for parameter in job["settings"]["parameters"]] == [
        "dataset",
        "source_table",
        "run_key",
        "export_path",
        "proof",
        "source",
        "mode",
        "published",
    ]
    assert job["settings"]["tasks"][0]["sql_task"]["warehouse_id"] == "sandbox"

    settings = {name: value for name, value in job["settings"].items() if name != "name"}
    job_id = workspace.post("jobs/create", **settings, name="another")["job_id"]
    assert workspace.get("jobs/list", name="another")["jobs"][0]["job_id"] == job_id
    assert len(workspace.get("jobs/list")["jobs"]) == 2
    assert "tasks" not in workspace.get("jobs/list")["jobs"][0]["settings"]
    workspace.post("jobs/reset", job_id=job_id, new_settings={"name": "reset", "tasks": settings["tasks"]})
    assert "parameters" not in workspace.get("jobs/get", job_id=job_id)["settings"]
    workspace.post("jobs/delete", job_id=job_id)
    workspace.refused("jobs/get", job_id=job_id)
    assert "At least one task" in workspace.refused("jobs/create", name="empty")["message"]


# Restarts


def test_a_restart_keeps_jobs_and_runs_and_ends_those_that_were_active(
    serve: Any, tmp_path: Path, parameters: dict[str, str]
) -> None:
    first = serve(tmp_path / "state")
    other_job = first.post(
        "jobs/create", name="other", tasks=first.get("jobs/get", job_id=first.job_id)["settings"]["tasks"]
    )["job_id"]
    good = first.run_now(parameters, idempotency_token="good")
    told = first.ended(good)
    first.order("hold", at="end")
    interrupted = first.run_now(parameters, idempotency_token="interrupted")
    first.held(interrupted)
    first.stop()

    second = serve(tmp_path / "state")

    assert second.job_id == first.job_id
    assert second.get("jobs/get", job_id=other_job)["settings"]["name"] == "other"
    again = second.run(good)
    for run in (told, *told["tasks"], again, *again["tasks"]):
        del run["run_page_url"]  # the port is another
    assert again == told
    run = second.run(interrupted)
    assert (run["state"]["life_cycle_state"], run["state"]["result_state"]) == ("INTERNAL_ERROR", "FAILED")
    assert run["state"]["state_message"] == "Run failed because the workspace was restarted."
    assert run["status"]["termination_details"]["code"] == "INTERNAL_ERROR"
    assert second.run_now(parameters, idempotency_token="interrupted") == interrupted
    assert second.result(second.run_now(parameters)) == ("TERMINATED", "SUCCESS")


def test_a_changed_bundle_changes_the_same_job(serve: Any, bundle: Any, tmp_path: Path) -> None:
    first = serve(tmp_path, bundle())
    first.stop()
    second = serve(tmp_path, bundle(description="changed"))
    assert second.job_id == first.job_id
    assert second.get("jobs/get", job_id=second.job_id)["settings"]["description"] == "changed"
