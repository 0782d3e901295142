"""The settings of jobs: checks which settings the workspace can run, and reads an asset bundle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from emulators.databricks.records import invalid

MAX_CONCURRENT_RUNS = 1000

# Settings of a task for which the emulator supports only this value.
_ONLY = (("run_if", "ALL_SUCCESS"), ("max_retries", 0))


def checked_settings(settings: dict[str, Any], files_dir: Path) -> dict[str, Any]:
    """
    Check a job's settings, and return a copy with Databricks' defaults filled in.

    :param files_dir: directory to which the paths of SQL files are relative.
    :raises ApiError: if Databricks would refuse the settings, or the emulator does not support them.
    """
    settings = json.loads(json.dumps(settings))
    if not isinstance(tasks := settings.get("tasks"), list) or not tasks:
        raise invalid("At least one task must be specified in the job settings.")
    if len(tasks) > 1:
        raise invalid("The emulator knows only jobs of one task.")
    settings["tasks"] = [_checked_task(tasks[0], files_dir)]
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


def _checked_task(task: dict[str, Any], files_dir: Path) -> dict[str, Any]:
    key = task.get("task_key")
    if not key:
        raise invalid("Every task needs a task_key.")
    if task.get("depends_on"):
        raise invalid(f"Task {key} depends on {task['depends_on'][0].get('task_key')}, which does not exist.")
    sql_task = task.get("sql_task", {})
    file = sql_task.get("file", {})
    if not isinstance(file.get("path"), str):
        raise invalid(f"Task {key}: the emulator runs only tasks with sql_task.file.path.")
    if not isinstance(sql_task.get("warehouse_id"), str):
        raise invalid(f"Task {key}: sql_task.warehouse_id is missing.")
    file["path"] = str((files_dir / file["path"]).resolve())
    for field, value in _ONLY:
        if task.setdefault(field, value) != value:
            raise invalid(f"Task {key}: the emulator knows no other {field} than {value}.")
    if not isinstance(task.setdefault("timeout_seconds", 0), int) or task["timeout_seconds"] < 0:
        raise invalid(f"Task {key}: timeout_seconds must be a number that is not negative.")
    task.setdefault("email_notifications", {})
    return task
