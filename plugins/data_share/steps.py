"""The steps of a sync, in order: the one list that the DAG, the reports, the page and the clients use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """
    A step of a sync.

    :param id: task id in Airflow
    :param title: title for people; steps with the same title are shown as one
    :param doing: the sentence that people see while the step runs
    """

    id: str
    title: str
    doing: str


EXPORT_TO_S3 = Step("export_to_s3", "Export", "Starting the export")
WAIT_FOR_EXPORT = Step("wait_for_export", "Export", "Waiting for Databricks to export")
COPY_INTO_STAGING = Step("copy_into_staging", "Load", "Loading into Snowflake")
CHECK_STAGING = Step("check_staging", "Check", "Checking the rows")
PUBLISH = Step("publish", "Publish", "Publishing")
FINISH_SYNC = Step("finish_sync", "Finish", "Finishing")

STEPS = (EXPORT_TO_S3, WAIT_FOR_EXPORT, COPY_INTO_STAGING, CHECK_STAGING, PUBLISH, FINISH_SYNC)

BEFORE_FINISH = tuple(step.id for step in STEPS[:-1])
"""Task ids of all steps before ``finish_sync``; the last of them is ``publish``."""


def as_json() -> list[dict[str, Any]]:
    """Return the steps as JSON, for pages and clients."""
    return [asdict(step) for step in STEPS]


def task_states(ti: Any, steps: Sequence[str]) -> dict[str, str | None]:
    """
    Return the states of tasks, by task id.

    :param ti: any task instance of the same run
    :param steps: ids of the tasks
    """
    found: dict[str, str | None] = ti.get_task_states(dag_id=ti.dag_id, task_ids=list(steps), run_ids=[ti.run_id]).get(
        ti.run_id, {}
    )
    return found
