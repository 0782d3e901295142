"""The settings of a job: which ones this workspace can run, and those in an asset bundle."""

from __future__ import annotations

import json
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from emulators.databricks.records import invalid, upstream

MAX_CONCURRENT_RUNS = 1000

# What a task may not ask for, because the workspace would not do it.
_ONLY = (("run_if", "ALL_SUCCESS"), ("max_retries", 0))


def checked_settings(settings: dict[str, Any], files_dir: Path) -> dict[str, Any]:
    """
    A copy of settings that this workspace can run, with Databricks' defaults filled in.

    :param files_dir: directory to which the paths of SQL files are relative.
    :raises ApiError: if the service would refuse them, or the workspace cannot do what they ask for.
    """
    settings = json.loads(json.dumps(settings))
    if not isinstance(tasks := settings.get("tasks"), list) or not tasks:
        raise invalid("At least one task must be specified in the job settings.")
    keys = [task.get("task_key") for task in tasks if isinstance(task, dict)]
    if not all(keys) or len(set(keys)) != len(tasks):
        raise invalid("Every task needs a task_key of its own.")
    settings["tasks"] = _in_order([_checked_task(task, files_dir) for task in tasks])
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
    if len(tasks) > 1 and any(task["timeout_seconds"] for task in settings["tasks"]):
        raise invalid("The sandbox knows a time-out of a task only where it is the only one.")
    settings.setdefault("name", "Untitled")
    settings.setdefault("email_notifications", {})
    settings.setdefault("webhook_notifications", {})
    settings["format"] = "MULTI_TASK"
    return settings


def jobs_of_bundle(bundle: Path) -> dict[str, dict[str, Any]]:
    """
    Settings of the jobs of an asset bundle, by their names in it.

    A reference to a variable becomes its default, or ``sandbox`` when it has none.
    """
    document = yaml.safe_load(bundle.read_text("utf-8"))
    variables = document.get("variables", {})

    def variable(match: re.Match[str]) -> str:
        return str(variables.get(match[1], {}).get("default", "sandbox"))

    return {
        key: json.loads(re.sub(r"\$\{var\.(\w+)\}", variable, json.dumps(settings)))
        for key, settings in document["resources"]["jobs"].items()
    }


def _checked_task(task: dict[str, Any], files_dir: Path) -> dict[str, Any]:
    key = task["task_key"]
    sql_task = task.get("sql_task", {})
    file = sql_task.get("file", {})
    if not isinstance(file.get("path"), str):
        raise invalid(f"Task {key}: the sandbox runs only tasks with sql_task.file.path.")
    if not isinstance(sql_task.get("warehouse_id"), str):
        raise invalid(f"Task {key}: sql_task.warehouse_id is missing.")
    file["path"] = str((files_dir / file["path"]).resolve())
    for field, value in _ONLY:
        if task.setdefault(field, value) != value:
            raise invalid(f"Task {key}: the sandbox knows no other {field} than {value}.")
    if not isinstance(task.setdefault("timeout_seconds", 0), int) or task["timeout_seconds"] < 0:
        raise invalid(f"Task {key}: timeout_seconds must be a number that is not negative.")
    task.setdefault("email_notifications", {})
    return task


def _in_order(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tasks in an order in which each comes after those that it waits for."""
    by_key = {task["task_key"]: task for task in tasks}
    for key, task in by_key.items():
        if missing := [other for other in upstream(task) if other not in by_key]:
            raise invalid(f"Task {key} depends on {missing[0]}, which does not exist.")
    try:
        order = TopologicalSorter({key: upstream(task) for key, task in by_key.items()}).static_order()
        return [by_key[key] for key in order]
    except CycleError:
        raise invalid("The tasks depend on each other in a circle.") from None
