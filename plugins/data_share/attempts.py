"""
Which attempt made an XCom.

Airflow (3.3) deletes the XComs of a task when its process starts, but never those of a task that starts in the
triggerer. A task that fails before its process starts, or that a person marks, keeps the XComs of an earlier attempt.
So each XCom that decides about a sync names the attempt that made it, and every reader compares.

Two values identify the attempt. Each attempt of a task has its own id: readers who see the task instances, as in the
REST API, compare it. A task does not see the ids of other tasks, but it knows how often the run was cleared: an XCom
with a smaller number is older than the last clear.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ATTEMPT_KEY = "task_instance_id"
"""Field with Airflow's id of the attempt that made a value."""

CLEAR_NUMBER_KEY = "clear_number"
"""Field with the number of times that the run had been cleared when a value was made."""


def made_by(context: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the value of an XCom, extended by the attempt that made it.

    :param context: context of the attempt
    :param value: the value without the attempt
    """
    return {
        **value,
        ATTEMPT_KEY: str(context["ti"].id),
        CLEAR_NUMBER_KEY: context["dag_run"].clear_number,
    }


def made_since_clear(value: Any, dag_run: Any) -> bool:
    """
    Return whether an XCom was made since the run was last cleared; False if it does not name its attempt.

    :param value: the XCom of a step, or None
    :param dag_run: the run, from a task's context
    """
    return isinstance(value, Mapping) and value.get(CLEAR_NUMBER_KEY) == dag_run.clear_number
