"""Jobs of several tasks: a SQL file that decides, a condition, and a SQL file that depends on its outcome."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

PLAN = "SELECT :mode AS export_mode, 7 AS to_version, CAST(NULL AS STRING) AS reason, TRUE AS `is-full`"
WRITE = "INSERT OVERWRITE DIRECTORY '{path}' USING PARQUET SELECT :version AS version"
FAILED = "Workload failed, see run output for details"
UNMET = "The run was skipped because the necessary conditions were not met."


@pytest.fixture
def tasks(tmp_path: Path, parameters: dict[str, str]) -> Callable[..., list[dict[str, Any]]]:
    """Makes the tasks plan, changed and export; the files of the SQL tasks are below the path of this test."""

    def make(plan: str = PLAN, version: str = "{{tasks.plan.output.first_row.to_version}}") -> list[dict[str, Any]]:
        for name, sql in (("plan", plan), ("export", WRITE.format(path=parameters["export_path"] + "data/"))):
            (tmp_path / f"{name}.sql").write_text(sql)

        def sql_task(name: str, **values: str) -> dict[str, Any]:
            return {"warehouse_id": "w", "file": {"path": str(tmp_path / f"{name}.sql")}, "parameters": values}

        condition = {"op": "NOT_EQUAL", "left": "{{tasks.plan.output.first_row.export_mode}}", "right": "nothing"}
        return [
            {"task_key": "plan", "sql_task": sql_task("plan", mode="{{job.parameters.mode}}")},
            {"task_key": "changed", "depends_on": [{"task_key": "plan"}], "condition_task": condition},
            {
                "task_key": "export",
                "depends_on": [{"task_key": "changed", "outcome": "true"}],
                "sql_task": sql_task("export", version=version),
            },
        ]

    return make


@pytest.fixture
def start(workspace: Any) -> Callable[..., int]:
    """Starts a run of a job with these tasks."""

    def run(tasks: list[dict[str, Any]], mode: str = "full", **settings: Any) -> int:
        job_id = workspace.post(
            "jobs/create",
            name="several tasks",
            tasks=tasks,
            parameters=[{"name": "mode", "default": "full"}],
            **settings,
        )["job_id"]
        answer = workspace.post("jobs/run-now", job_id=job_id, job_parameters={"mode": mode})
        return int(answer["run_id"])

    return run


def states(run: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        task["task_key"]: (task["state"]["life_cycle_state"], task["state"].get("result_state", ""))
        for task in run["tasks"]
    }


def output_of(workspace: Any, run: dict[str, Any], key: str) -> dict[str, Any]:
    [run_id] = [task["run_id"] for task in run["tasks"] if task["task_key"] == key]
    return dict(workspace.get("jobs/runs/get-output", run_id=run_id))


def test_a_task_gets_values_of_the_output_of_one_before_it(workspace: Any, start: Any, tasks: Any, files: Any) -> None:
    run_id = start(tasks())
    run = workspace.ended(run_id)

    assert states(run) == dict.fromkeys(("plan", "changed", "export"), ("TERMINATED", "SUCCESS"))
    assert (run["state"]["life_cycle_state"], run["state"]["result_state"]) == ("TERMINATED", "SUCCESS")
    # The durations of a run of several tasks are 0, but for that of the run.
    assert (run["execution_duration"], run["run_duration"] > 0) == (0, True)
    plan, changed, export = workspace.get("jobs/runs/get", run_id=run_id, include_resolved_values="true")["tasks"]
    assert plan["resolved_values"] == {"sql_task": {"parameters": {"mode": "full"}}}
    assert changed["resolved_values"] == {"condition_task": {"left": "full", "right": "nothing"}}
    assert export["resolved_values"] == {"sql_task": {"parameters": {"version": "7"}}}
    assert changed["condition_task"]["outcome"] == "true"
    assert changed["condition_task"]["left"] == "{{tasks.plan.output.first_row.export_mode}}"
    assert export["depends_on"] == [{"task_key": "changed", "outcome": "true"}]
    assert plan["end_time"] <= changed["start_time"] <= changed["end_time"] <= export["start_time"]
    assert "resolved_values" not in workspace.run(run_id)["tasks"][0]
    [listed] = workspace.get("jobs/runs/list", job_id=run["job_id"], expand_tasks="true")["runs"]
    assert [task["task_key"] for task in listed["tasks"]] == ["plan", "changed", "export"]
    for task in run["tasks"]:
        alone = workspace.run(task["run_id"])
        assert (alone["job_run_id"], alone["run_name"], alone["tasks"]) == (run_id, task["task_key"], [task])
    assert "error" not in output_of(workspace, run, "export")
    assert "sql_output" not in output_of(workspace, run, "changed")


def test_a_task_behind_another_outcome_is_excluded_and_the_run_succeeds(
    workspace: Any, start: Any, tasks: Any, files: Any, parameters: dict[str, str]
) -> None:
    run_id = start(tasks(), mode="nothing")
    run = workspace.ended(run_id)

    assert states(run)["export"] == ("SKIPPED", "EXCLUDED")
    assert (run["state"]["life_cycle_state"], run["state"]["result_state"]) == ("TERMINATED", "SUCCESS")
    changed, export = workspace.get("jobs/runs/get", run_id=run_id, include_resolved_values="true")["tasks"][1:]
    assert changed["condition_task"]["outcome"] == "false"
    assert changed["resolved_values"]["condition_task"]["left"] == "nothing"
    assert "resolved_values" not in export  # it was never started
    assert export["status"]["termination_details"] == {"code": "SKIPPED", "type": "CLIENT_ERROR", "message": UNMET}
    assert export["start_time"] == 0
    assert not files.exists(parameters["export_path"])


def test_what_follows_an_excluded_task_is_excluded_too_unless_another_succeeded(
    workspace: Any, start: Any, tasks: Any
) -> None:
    chain = tasks()
    plan = chain[0]
    after = {**plan, "task_key": "after", "depends_on": [{"task_key": "export"}]}
    join = {**plan, "task_key": "join", "depends_on": [{"task_key": "export"}, {"task_key": "changed"}]}
    otherwise = {**plan, "task_key": "otherwise", "depends_on": [{"task_key": "changed", "outcome": "false"}]}
    run = workspace.ended(start([join, after, otherwise, *chain], mode="nothing"))

    assert states(run)["after"] == ("SKIPPED", "EXCLUDED")
    assert states(run)["join"] == states(run)["otherwise"] == ("TERMINATED", "SUCCESS")


def test_a_failed_task_fails_the_run_and_skips_what_is_behind_it(workspace: Any, start: Any, tasks: Any) -> None:
    run = workspace.ended(start(tasks(plan="SELECT RAISE_ERROR('no plan') AS export_mode")))

    assert states(run) == {
        "plan": ("TERMINATED", "FAILED"),
        "changed": ("SKIPPED", "UPSTREAM_FAILED"),
        "export": ("SKIPPED", "UPSTREAM_FAILED"),
    }
    assert (run["state"]["life_cycle_state"], run["state"]["result_state"]) == ("INTERNAL_ERROR", "FAILED")
    assert run["state"]["state_message"].startswith(f"Task plan failed with message: {FAILED}.")
    assert output_of(workspace, run, "plan")["error"] == ("[USER_RAISED_EXCEPTION] no plan SQLSTATE: P0001")
    assert "error" not in output_of(workspace, run, "export")


@pytest.mark.parametrize(
    ("plan", "version", "failed"),
    [
        ("SELECT 'full' AS mode", "7", "changed"),  # no such column
        (f"{PLAN} WHERE FALSE", "7", "changed"),
        (f"{PLAN}; DECLARE OR REPLACE VARIABLE x STRING", "7", "changed"),  # the last statement is no query
        (PLAN, "{{tasks.plan.output.first_row.reason}}", "export"),  # NULL
        (PLAN, "{{tasks.plan.output.first_row.TO_VERSION}}", "export"),
        (f"{PLAN}, REPEAT('x', 49 * 1024) AS wide", "7", "changed"),  # more than Databricks keeps
    ],
)
def test_a_value_that_is_not_there_fails_the_task_that_refers_to_it(
    workspace: Any, start: Any, tasks: Any, plan: str, version: str, failed: str
) -> None:
    run = workspace.ended(start(tasks(plan=plan, version=version)))

    assert states(run)[failed] == ("INTERNAL_ERROR", "FAILED")
    assert "Unable to resolve reference {{tasks.plan.output.first_row." in output_of(workspace, run, failed)["error"]
    assert (run["state"]["life_cycle_state"], run["state"]["result_state"]) == ("INTERNAL_ERROR", "FAILED")


def test_the_output_of_a_file_is_the_result_of_its_last_statement(workspace: Any, start: Any, tasks: Any) -> None:
    many = "SELECT k, CAST(NULL AS STRING) AS n FROM (SELECT EXPLODE(SEQUENCE(1, 1001)) AS k)"
    run = workspace.ended(start(tasks(plan=f"{many}; {PLAN}")))
    columns = ["export_mode", "to_version", "reason", "is-full"]
    assert output_of(workspace, run, "plan")["sql_output"] == {
        "file_output": {
            "query_result": {
                "columns": [{"name": name} for name in columns],
                "rows": [{"values": [{"string_value": "full"}, {"string_value": "7"}, {}, {"string_value": "true"}]}],
                "truncated": False,
            },
            "warehouse_id": "w",
        }
    }
    assert output_of(workspace, run, "export")["sql_output"] == {}  # it wrote files

    run = workspace.ended(start(tasks(plan=f"{PLAN}; SELECT 'full' AS export_mode FROM ({many})", version="7")))
    assert run["state"]["result_state"] == "SUCCESS"
    result = output_of(workspace, run, "plan")["sql_output"]["file_output"]["query_result"]
    assert (len(result["rows"]), result["truncated"]) == (1000, True)


def test_a_value_is_no_template_and_what_is_no_reference_stays(workspace: Any, start: Any, tasks: Any) -> None:
    chain = tasks(plan="SELECT '{{job.parameters.mode}}' AS export_mode, 1 AS `is-full`")
    written = "{{tasks.plan.output.first_row.export_mode}} {{ tasks.plan.output.first_row.`is-full` }} {{tasks.plan"
    chain[2]["sql_task"]["parameters"]["version"] = written
    run_id = start(chain)
    workspace.ended(run_id)

    export = workspace.get("jobs/runs/get", run_id=run_id, include_resolved_values="true")["tasks"][2]
    assert export["resolved_values"]["sql_task"]["parameters"] == {"version": "{{job.parameters.mode}} 1 {{tasks.plan"}


@pytest.mark.parametrize(
    ("op", "left", "right", "outcome"),
    [
        ("EQUAL_TO", "12.0", "12", "false"),
        ("NOT_EQUAL", "12.0", "12", "true"),
        ("EQUAL_TO", "true", "true", "true"),
        ("GREATER_THAN", "9", "10", "false"),
        ("GREATER_THAN_OR_EQUAL", "12.0", "12", "true"),
        ("LESS_THAN", "-1", "0", "true"),
        ("LESS_THAN_OR_EQUAL", "1e3", "999", "false"),
    ],
)
def test_texts_are_equal_and_numbers_are_greater(
    workspace: Any, start: Any, op: str, left: str, right: str, outcome: str
) -> None:
    condition = {"task_key": "if", "condition_task": {"op": op, "left": left, "right": right}}
    [task] = workspace.ended(start([condition]))["tasks"]
    assert (task["condition_task"]["outcome"], task["state"]["result_state"]) == (outcome, "SUCCESS")


@pytest.mark.parametrize("operand", ["many", "", "NaN"])
def test_a_comparison_of_numbers_fails_with_other_operands(workspace: Any, start: Any, operand: str) -> None:
    condition = {"task_key": "if", "condition_task": {"op": "LESS_THAN", "left": operand, "right": "1"}}
    run = workspace.ended(start([condition]))
    assert "outcome" not in run["tasks"][0]["condition_task"]
    assert "is not a number" in output_of(workspace, run, "if")["error"]


def test_a_run_that_waits_is_blocked_behind_its_first_task(workspace: Any, start: Any, tasks: Any) -> None:
    workspace.order("hold", at="start")
    run_id = start(tasks())
    workspace.held(run_id)
    assert states(workspace.run(run_id)) == {
        "plan": ("PENDING", ""),
        "changed": ("BLOCKED", ""),
        "export": ("BLOCKED", ""),
    }
    assert {task["status"]["state"] for task in workspace.run(run_id)["tasks"]} == {"PENDING", "BLOCKED"}

    workspace.post("jobs/runs/cancel", run_id=run_id)
    run = workspace.ended(run_id)
    assert set(states(run).values()) == {("TERMINATED", "CANCELED")}
    assert run["state"]["result_state"] == "CANCELED"

    workspace.order("hold", at="end")
    run_id = start(tasks())
    workspace.held(run_id)
    assert set(states(workspace.run(run_id)).values()) == {("TERMINATED", "SUCCESS")}
    workspace.order("release")
    assert workspace.result(run_id) == ("TERMINATED", "SUCCESS")


def test_time_out_and_order_to_fail_end_the_first_task_and_skip_the_others(
    workspace: Any, start: Any, tasks: Any
) -> None:
    workspace.order("hold", at="start")
    run = workspace.ended(start(tasks(), timeout_seconds=1))
    assert states(run) == {
        "plan": ("TERMINATED", "TIMEDOUT"),
        "changed": ("SKIPPED", "UPSTREAM_FAILED"),
        "export": ("SKIPPED", "UPSTREAM_FAILED"),
    }
    assert run["state"]["result_state"] == "TIMEDOUT"

    workspace.order("fail_next", message="The warehouse is on fire.")
    run = workspace.ended(start(tasks()))
    assert states(run)["plan"] == ("TERMINATED", "FAILED")
    assert states(run)["export"] == ("SKIPPED", "UPSTREAM_FAILED")
    assert output_of(workspace, run, "plan")["error"] == run["state"]["state_message"] == "The warehouse is on fire."


def test_a_restart_ends_the_tasks_of_active_runs(serve: Any, tmp_path: Path, tasks: Any) -> None:
    first = serve(tmp_path / "state")
    job_id = first.post("jobs/create", name="x", tasks=tasks(), parameters=[{"name": "mode", "default": "full"}])[
        "job_id"
    ]
    good = first.ended(first.post("jobs/run-now", job_id=job_id)["run_id"])
    first.order("hold", at="start")
    interrupted = first.post("jobs/run-now", job_id=job_id)["run_id"]
    first.held(interrupted)
    first.stop()

    second = serve(tmp_path / "state")
    again = second.run(good["run_id"])
    for run in (good, again):
        for each in (run, *run["tasks"]):
            del each["run_page_url"]  # the port is another
    assert again == good
    assert states(second.run(interrupted)) == {
        "plan": ("INTERNAL_ERROR", "FAILED"),
        "changed": ("SKIPPED", "UPSTREAM_FAILED"),
        "export": ("SKIPPED", "UPSTREAM_FAILED"),
    }


def test_runs_that_were_stored_with_their_only_task_are_told_as_before(
    serve: Any, tmp_path: Path, parameters: dict[str, str]
) -> None:
    first = serve(tmp_path / "state")
    only = first.get("jobs/get", job_id=first.job_id)["settings"]["tasks"][0]
    job_id = first.post("jobs/create", name="one task", tasks=[only])["job_id"]
    run_id = first.post("jobs/run-now", job_id=job_id, job_parameters=parameters)["run_id"]
    told = first.ended(run_id)
    assert told["state"]["result_state"] == "SUCCESS"
    first.stop()
    file = tmp_path / "state" / "runs" / f"{run_id}.json"
    stored = json.loads(file.read_text())
    [task] = stored.pop("tasks")
    stored["task"] = {name: task[name] for name in ("run_id", "settings", "state", "error")}
    file.write_text(json.dumps(stored))

    again = serve(tmp_path / "state").run(run_id)
    assert (again["state"], again["status"]) == (told["state"], told["status"])
    assert [task["state"] for task in again["tasks"]] == [task["state"] for task in told["tasks"]]


def test_graphs_that_databricks_refuses_are_refused(workspace: Any, tasks: Any) -> None:
    def changed(number: int, **values: Any) -> list[dict[str, Any]]:
        chain = tasks()
        chain[number] |= values
        return list(chain)

    def condition(**values: Any) -> list[dict[str, Any]]:
        chain = tasks()
        chain[1]["condition_task"] |= values
        return list(chain)

    def export_of(text: str) -> list[dict[str, Any]]:
        return list(tasks(version=text))

    of_plan = [{"task_key": "plan"}]
    for refused, reason in (
        (changed(2, task_key="plan"), "a task_key of its own"),
        (changed(2, task_key="a b"), "task key a b is invalid"),
        (changed(1, depends_on=[{"task_key": "x"}]), "depends on x, which does not exist"),
        (changed(0, depends_on=of_plan), "task 'plan' can not reference itself"),
        (changed(0, depends_on=[{"task_key": "export"}]), "is part of a cycle"),
        (changed(2, depends_on=[{"task_key": "plan", "outcome": "true"}]), "plan, which is not a condition task"),
        (changed(2, depends_on=[{"task_key": "changed", "outcome": "yes"}]), "must be true or false"),
        (changed(2, run_if="ALL_DONE"), "no other run_if"),
        (changed(1, max_retries=1), "does not support retries"),
        (changed(0, condition_task={"op": "EQUAL_TO", "left": "", "right": ""}), "exactly one of"),
        (condition(op="LIKE"), "op must be one of EQUAL_TO"),
        (condition(left=None), "condition_task.left is missing"),
        (condition(outcome="true"), "condition_task has no outcome"),
        (changed(1, depends_on=[]), "plan is not a task that it depends on"),
        (export_of("{{tasks.export.output.first_row.x}}"), "export is not a task that it depends on"),
        (export_of("{{tasks.none.output.first_row.x}}"), "none is not a task that it depends on"),
        (export_of("{{tasks.plan.values.x}}"), "knows only output.first_row.<column>"),
        (export_of("{{tasks.plan.output.rows}}"), "knows only output.first_row.<column>"),
        (export_of("{{tasks.changed.output.first_row.x}}"), "knows only output.first_row.<column>"),
    ):
        assert reason in workspace.refused("jobs/create", tasks=refused)["message"], reason
    assert workspace.post("jobs/create", tasks=export_of("{{tasks}} {{tasks.plan}} {{nothing}}"))["job_id"]
