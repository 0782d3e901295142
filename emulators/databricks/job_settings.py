"""The settings of jobs: checks which settings the workspace can run, and reads an asset bundle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from emulators.databricks.conditions import OPERATORS
from emulators.databricks.records import invalid
from emulators.databricks.references import references_to_tasks

MAX_CONCURRENT_RUNS = 1000

_TASK_KEY = re.compile(r"[\w-]{1,100}", re.ASCII)


def checked_settings(settings: dict[str, Any], files_dir: Path) -> dict[str, Any]:
    """
    Check a job's settings, and return a copy with Databricks' defaults filled in.

    :param files_dir: directory to which the paths of SQL files are relative.
    :raises ApiError: if Databricks would refuse the settings, or the emulator does not support them.
    """
    settings = json.loads(json.dumps(settings))
    if not isinstance(tasks := settings.get("tasks"), list) or not tasks:
        raise invalid("At least one task must be specified in the job settings.")
    settings["tasks"] = [_checked_task(task, files_dir) for task in tasks]
    _check_dependencies(settings["tasks"])
    parameters = settings.get("parameters", [])
    for parameter in parameters:
        if not all(isinstance(parameter.get(field), str) for field in ("name", "default")):
            raise invalid("Every job parameter needs a name and a default.")
    if len({parameter["name"] for parameter in parameters}) != len(parameters):
        raise invalid("Every job parameter needs a name of its own.")
    limit = settings.setdefault("max_concurrent_runs", 1)
    if not isinstance(limit, int) or not 0 <= limit <= MAX_CONCURRENT_RUNS:
        raise invalid(f"max_concurrent_runs must be a number between 0 and {MAX_CONCURRENT_RUNS}.")
    if "queue" in settings and not isinstance(settings["queue"].get("enabled"), bool):
        raise invalid("queue.enabled must be true or false.")
    if not isinstance(settings.setdefault("timeout_seconds", 0), int) or settings["timeout_seconds"] < 0:
        raise invalid("timeout_seconds must be a number that is not negative.")
    settings.setdefault("name", "Untitled")
    settings.setdefault("email_notifications", {})
    settings.setdefault("webhook_notifications", {})
    settings["format"] = "MULTI_TASK"
    return settings


def jobs_of_bundle(bundle: Path) -> dict[str, dict[str, Any]]:
    """
    Return job key -> settings for the jobs in an asset bundle.

    A reference to a variable is replaced by the variable's default, or by ``sandbox`` if it has none.
    """
    document = yaml.safe_load(bundle.read_text("utf-8"))
    variables = document.get("variables", {})

    def variable(match: re.Match[str]) -> str:
        return str(variables.get(match[1], {}).get("default", "sandbox"))

    return {
        key: json.loads(re.sub(r"\$\{var\.(\w+)\}", variable, json.dumps(settings)))
        for key, settings in document["resources"]["jobs"].items()
    }


def upstream_of(key: str, tasks: list[dict[str, Any]]) -> set[str]:
    """Return the tasks on which a task depends, also through others."""
    direct = {task["task_key"]: [other["task_key"] for other in task.get("depends_on", [])] for task in tasks}
    found: set[str] = set()
    waiting = list(direct[key])
    while waiting:
        if (other := waiting.pop()) not in found:
            found.add(other)
            waiting += direct[other]
    return found


def texts_of(task: dict[str, Any]) -> dict[str, str]:
    """Return the texts of a task that may contain references: its parameters, or the operands of its condition."""
    if condition := task.get("condition_task"):
        return {side: condition[side] for side in ("left", "right")}
    return dict(task["sql_task"].get("parameters", {}))


def _checked_task(task: dict[str, Any], files_dir: Path) -> dict[str, Any]:
    key = task.get("task_key")
    if not key:
        raise invalid("Every task needs a task_key.")
    if not isinstance(key, str) or not _TASK_KEY.fullmatch(key):
        raise invalid(
            f"The task key {key} is invalid: it may have letters, digits, hyphens and underscores, at most 100."
        )
    if "condition_task" in task and "sql_task" in task:
        raise invalid(f"Task {key} must have exactly one of sql_task and condition_task.")
    if "condition_task" in task:
        _check_condition(key, task)
    else:
        _check_sql_file(key, task, files_dir)
    if task.setdefault("run_if", "ALL_SUCCESS") != "ALL_SUCCESS":
        raise invalid(f"Task {key}: the emulator knows no other run_if than ALL_SUCCESS.")
    if not isinstance(task.setdefault("timeout_seconds", 0), int) or task["timeout_seconds"] < 0:
        raise invalid(f"Task {key}: timeout_seconds must be a number that is not negative.")
    task.setdefault("email_notifications", {})
    return task


def _check_sql_file(key: str, task: dict[str, Any], files_dir: Path) -> None:
    sql_task = task.get("sql_task", {})
    file = sql_task.get("file", {})
    if not isinstance(file.get("path"), str):
        raise invalid(
            f"Task {key}: the emulator runs only tasks with sql_task.file.path, and tasks with condition_task."
        )
    if not isinstance(sql_task.get("warehouse_id"), str):
        raise invalid(f"Task {key}: sql_task.warehouse_id is missing.")
    parameters = sql_task.get("parameters", {})
    if not isinstance(parameters, dict) or not all(isinstance(value, str) for value in parameters.values()):
        raise invalid(f"Task {key}: sql_task.parameters must be strings.")
    file["path"] = str((files_dir / file["path"]).resolve())
    if task.setdefault("max_retries", 0) != 0:
        raise invalid(f"Task {key}: the emulator knows no other max_retries than 0.")


def _check_condition(key: str, task: dict[str, Any]) -> None:
    condition = task["condition_task"]
    if not isinstance(condition, dict) or condition.get("op") not in OPERATORS:
        raise invalid(f"Task {key}: condition_task.op must be one of {', '.join(OPERATORS)}.")
    if unknown := sorted(set(condition) - {"op", "left", "right"}):
        raise invalid(f"Task {key}: condition_task has no {', '.join(unknown)}.")
    for side in ("left", "right"):
        if not isinstance(condition.get(side), str):
            raise invalid(f"Task {key}: condition_task.{side} is missing.")
    if task.get("max_retries"):
        raise invalid(f"Task {key}: a condition task does not support retries.")


def _check_dependencies(tasks: list[dict[str, Any]]) -> None:
    """Check that the tasks form a graph without cycles, and refer to the outputs of tasks before them."""
    by_key = {task["task_key"]: task for task in tasks}
    if len(by_key) != len(tasks):
        raise invalid("Every task needs a task_key of its own.")
    for key, task in by_key.items():
        for dependency in task.get("depends_on", []):
            other = dependency.get("task_key")
            if other == key:
                raise invalid(f"Invalid dependency graph, task '{key}' can not reference itself.")
            if other not in by_key:
                raise invalid(f"Task {key} depends on {other}, which does not exist.")
            if "outcome" not in dependency:
                continue
            if "condition_task" not in by_key[other]:
                raise invalid(f"Task {key} depends on an outcome of {other}, which is not a condition task.")
            if dependency["outcome"] not in ("true", "false"):
                raise invalid(f"Task {key}: the outcome of {other} must be true or false.")
        if "depends_on" in task:
            task["depends_on"].sort(key=lambda dependency: dependency["task_key"])
    for key, task in by_key.items():
        upstream = upstream_of(key, tasks)
        if key in upstream:
            raise invalid(f"Invalid dependency graph, task '{key}' is part of a cycle.")
        for text in texts_of(task).values():
            for reference, other, known in references_to_tasks(text):
                if other not in upstream:
                    raise invalid(
                        f"Task {key} has the invalid reference {reference}: {other} is not a task that it depends on."
                    )
                if not known or "sql_task" not in by_key[other]:
                    raise invalid(
                        f"Task {key} has the reference {reference}: the emulator knows only output.first_row.<column> "
                        "of a SQL task."
                    )
