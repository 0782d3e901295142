"""The JSON answers of the Jobs API about jobs and runs, and their pages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

from emulators.databricks.records import Job, Run, State, TaskRun, invalid

WORKSPACE_ID = 900800700600

_QUEUED = "Queued due to reaching maximum concurrent runs of job."


def job_answer(job: Job) -> dict[str, Any]:
    """Return the answer of jobs/get."""
    return _job(job) | {"run_as_user_name": job.creator, "settings": job.settings}


def listed_job(job: Job, *, tasks: bool) -> dict[str, Any]:
    """Return a job as an item of jobs/list."""
    answer = _job(job)
    answer["settings"] = {key: value for key, value in job.settings.items() if key != "tasks"}
    if tasks:
        answer["settings"]["tasks"] = job.settings["tasks"]
        answer["has_more"] = False
    return answer


def run_answer(run: Run, base_url: str, *, resolved: bool = False) -> dict[str, Any]:
    """Return the answer of jobs/runs/get for a job's run."""
    return _run(run, base_url) | {"tasks": [_task(run, task, base_url, resolved=resolved) for task in run.tasks]}


def listed_run(run: Run, base_url: str, *, tasks: bool) -> dict[str, Any]:
    """Return a run as an item of jobs/runs/list."""
    answer = _run(run, base_url)
    if tasks:
        answer |= {"tasks": [_task(run, task, base_url) for task in run.tasks], "has_more": False}
    return answer


def task_run_answer(run: Run, task: TaskRun, base_url: str) -> dict[str, Any]:
    """Return the answer of jobs/runs/get for a task's run, which is also the metadata in jobs/runs/get-output."""
    answer = _task(run, task, base_url)
    return {
        "job_id": run.job_id,
        "run_id": task.run_id,
        "job_run_id": run.run_id,
        "number_in_job": task.run_id,
        "original_attempt_run_id": task.run_id,
        "attempt_number": 0,
        "creator_user_name": run.creator,
        "run_name": task.key,
        "run_page_url": answer["run_page_url"],
        "run_type": "JOB_RUN",
        "state": answer["state"],
        "status": answer["status"],
        **_times(task.state),
        "tasks": [answer],
    }


def sql_output(task: TaskRun) -> dict[str, Any]:
    """Return the output of a SQL file as in jobs/runs/get-output."""
    if task.output is None:
        return {}
    texts = [[{} if text is None else {"string_value": text} for text in row] for row in task.output.rows]
    result = {
        "columns": [{"name": name} for name in task.output.columns],
        "rows": [{"values": values} for values in texts],
        "truncated": task.output.truncated,
    }
    return {"file_output": {"query_result": result, "warehouse_id": task.settings["sql_task"]["warehouse_id"]}}


def page_of(
    name: str, items: Sequence[Any], *, limit: int, offset: int, page_token: str, show: Callable[[Any], Any]
) -> dict[str, Any]:
    """
    Return one page of a list. An empty list is left out of the answer.

    :param name: the list's name in the answer.
    :param limit: maximum number of items on a page.
    :param offset: index of the first item, if there is no token.
    :param page_token: the token of the page; it contains the index of the first item.
    :param show: converts an item to JSON.
    """
    start = _page_start(page_token) if page_token else offset
    shown = [show(item) for item in items[start : start + limit]]
    more = len(items) > start + limit
    answer: dict[str, Any] = {name: shown} if shown else {}
    answer["has_more"] = more
    if more:
        answer["next_page_token"] = _page_token(start + limit)
    if start:
        answer["prev_page_token"] = _page_token(max(0, start - limit))
    return answer


def _job(job: Job) -> dict[str, Any]:
    return {"job_id": job.job_id, "creator_user_name": job.creator, "created_time": job.created_time}


def _run(run: Run, base_url: str) -> dict[str, Any]:
    defaults = {parameter["name"]: parameter["default"] for parameter in run.settings.get("parameters", [])}
    return {
        "job_id": run.job_id,
        "run_id": run.run_id,
        "job_run_id": run.run_id,
        "number_in_job": run.run_id,
        "original_attempt_run_id": run.run_id,
        "creator_user_name": run.creator,
        "run_name": run.settings["name"],
        "run_page_url": _run_page_url(run, base_url),
        "run_type": "JOB_RUN",
        "trigger": "ONE_TIME",
        "state": _state(run.state),
        "status": _status(run.state),
        "job_parameters": [
            {"name": name, **({"default": defaults[name]} if name in defaults else {}), "value": value}
            for name, value in sorted(run.job_parameters.items())
        ],
        # The times of the task. A run of several tasks has only its duration.
        **_times(run.tasks[0].state if len(run.tasks) == 1 else State()),
        "start_time": run.created_time,
        "end_time": run.state.end_time,
        "run_duration": max(0, run.state.end_time - run.created_time),
        "queue_duration": run.queue_duration,
    }


def _task(run: Run, task: TaskRun, base_url: str, *, resolved: bool = False) -> dict[str, Any]:
    answer = {
        **task.settings,
        "run_id": task.run_id,
        "attempt_number": 0,
        "run_page_url": _run_page_url(run, base_url),
        "state": _state(task.state),
        "status": _status(task.state),
        **_times(task.state),
    }
    if task.outcome:
        answer["condition_task"] = task.settings["condition_task"] | {"outcome": task.outcome}
    if resolved and task.resolved is not None:
        if "condition_task" in task.settings:
            answer["resolved_values"] = {"condition_task": task.resolved}
        else:
            answer["resolved_values"] = {"sql_task": {"parameters": task.resolved}}
    return answer


def _state(state: State) -> dict[str, Any]:
    """Return a state in the older format of the API, the field `state`."""
    answer: dict[str, Any] = {"life_cycle_state": state.life_cycle_state}
    if state.result_state:
        answer["result_state"] = state.result_state
    answer["state_message"] = state.message
    answer["user_cancelled_or_timedout"] = state.result_state in {"CANCELED", "TIMEDOUT"}
    if state.life_cycle_state == "QUEUED":
        answer["queue_reason"] = _QUEUED
    return answer


def _status(state: State) -> dict[str, Any]:
    """Return a state in the newer format of the API, the field `status`."""
    answer: dict[str, Any] = {"state": state.life_cycle_state if state.active else "TERMINATED"}
    if state.life_cycle_state == "QUEUED":
        answer["queue_details"] = {"code": "MAX_CONCURRENT_RUNS_REACHED", "message": _QUEUED}
    if not state.active or state.life_cycle_state == "TERMINATING":
        kind = state.code if state.code in {"SUCCESS", "INTERNAL_ERROR"} else "CLIENT_ERROR"
        answer["termination_details"] = {"code": state.code, "type": kind, "message": state.message}
    return answer


def _times(state: State) -> dict[str, int]:
    """Return times in milliseconds since 1970 and durations in milliseconds. The end is 0 until a run has ended."""
    ended = state.start_time and state.end_time
    return {
        "start_time": state.start_time,
        "end_time": state.end_time,
        "setup_duration": 0,
        "execution_duration": max(0, state.end_time - state.start_time) if ended else 0,
        "cleanup_duration": 0,
    }


def _run_page_url(run: Run, base_url: str) -> str:
    return f"{base_url}?o={WORKSPACE_ID}#job/{run.job_id}/run/{run.run_id}"


def _page_token(start: int) -> str:
    return base64.urlsafe_b64encode(f"from:{start}".encode()).decode()


def _page_start(token: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(token).decode().removeprefix("from:"))
    except (ValueError, binascii.Error) as error:
        raise invalid("Invalid page token.") from error
