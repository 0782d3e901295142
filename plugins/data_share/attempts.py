"""
Which attempt made what a step has left.

Airflow (3.3) clears the XComs of a task when its process starts; those of a task that starts in the triggerer, never. A
task that fails before that, or that a person marks, keeps what an earlier attempt has left. So what decides about a
sync says who made it, and whoever reads it compares.

Two things Airflow does not carry over. Each attempt of a task has an id of its own: whoever sees the task instances, as
the REST API shows them, compares it. A task does not see the ids of others, but it knows how often its run was cleared,
which no step survives that is made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ATTEMPT_KEY = "task_instance_id"
"""Field with Airflow's id of the attempt that made a value."""

CLEAR_NUMBER_KEY = "clear_number"
"""Field with how often the run had been cleared when a value was made."""


def made_by(context: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what a step leaves, together with who made it.

    :param context: of the attempt
    :param value: what it leaves
    """
    return {
        **value,
        ATTEMPT_KEY: str(context["ti"].id),
        CLEAR_NUMBER_KEY: context["dag_run"].clear_number,
    }


def is_of_this_time(value: Any, dag_run: Any) -> bool:
    """
    Return whether a value was made since the run was last cleared; what does not say who made it, was not.

    :param value: what a step has left, or None
    :param dag_run: the run, as a task's context holds it
    """
    return isinstance(value, Mapping) and value.get(CLEAR_NUMBER_KEY) == dag_run.clear_number
