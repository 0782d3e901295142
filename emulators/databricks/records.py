"""The records of jobs and runs that the workspace stores, and their states."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

USER = "sandbox@localhost"

ACTIVE_STATES = frozenset({"QUEUED", "PENDING", "BLOCKED", "RUNNING", "TERMINATING"})
RESULT_STATES = frozenset(
    {
        "SUCCESS",
        "FAILED",
        "TIMEDOUT",
        "CANCELED",
        "MAXIMUM_CONCURRENT_RUNS_REACHED",
        "UPSTREAM_FAILED",
        "UPSTREAM_CANCELED",
        "EXCLUDED",
        "SUCCESS_WITH_FAILURES",
        "DISABLED",
    }
)

# Result state -> termination code of the API's newer format, used if the code is not given.
TERMINATION_CODES = {
    "SUCCESS": "SUCCESS",
    "SUCCESS_WITH_FAILURES": "SUCCESS_WITH_FAILURES",
    "CANCELED": "USER_CANCELED",
    "TIMEDOUT": "CANCELED",
    "MAXIMUM_CONCURRENT_RUNS_REACHED": "MAX_CONCURRENT_RUNS_EXCEEDED",
    "UPSTREAM_FAILED": "SKIPPED",
    "UPSTREAM_CANCELED": "SKIPPED",
    "EXCLUDED": "SKIPPED",
    "DISABLED": "DISABLED",
}


class ApiError(Exception):
    """
    A refused request.

    :param status: HTTP status.
    :param error_code: Databricks' name of the error.
    :param message: Databricks' message.
    """

    def __init__(self, status: int, error_code: str | int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code


def invalid(message: str) -> ApiError:
    """Report a well-formed request with an invalid value."""
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


@dataclass
class Job:
    """A job. ``key`` is its name in the bundle; it is empty if the job was created through the API."""

    job_id: int
    settings: dict[str, Any]
    created_time: int
    key: str = ""
    creator: str = USER


@dataclass
class State:
    """
    The state of a run or of a task's run. Times are in milliseconds since 1970; 0 means not yet.

    ``life_cycle_state`` and ``result_state`` belong to the API's older format. ``code``, the reason of the end, belongs
    to the newer format.
    """

    life_cycle_state: str = "PENDING"
    result_state: str = ""
    message: str = ""
    code: str = ""
    start_time: int = 0
    end_time: int = 0

    @property
    def active(self) -> bool:
        """Whether the run has not ended."""
        return self.life_cycle_state in ACTIVE_STATES

    def end(self, life_cycle_state: str, result_state: str, message: str = "", code: str = "") -> None:
        """Set the final state. Without ``code``, the code is derived from the other values."""
        self.life_cycle_state, self.result_state, self.message = life_cycle_state, result_state, message
        usual = "INTERNAL_ERROR" if life_cycle_state == "INTERNAL_ERROR" else "RUN_EXECUTION_ERROR"
        self.code = code or TERMINATION_CODES.get(result_state, usual)
        self.end_time = now()


@dataclass
class SqlOutput:
    """The result of a SQL file: names of columns, and the texts of the first rows, which may not be all."""

    columns: list[str]
    rows: list[list[str | None]]
    truncated: bool

    @property
    def first_row(self) -> dict[str, str | None] | None:
        """The first row, by the names of the columns; None if there is none."""
        return dict(zip(self.columns, self.rows[0], strict=True)) if self.rows else None


@dataclass
class TaskRun:
    """
    A task's run, with a copy of the task's settings.

    ``resolved`` are the task's parameters or operands with their references replaced; None until the task starts.
    ``output`` is the result of a SQL file; None if its last statement is no query. ``outcome`` is the result of a
    condition, ``true`` or ``false``; empty until it is known.
    """

    run_id: int
    settings: dict[str, Any]
    state: State = field(default_factory=State)
    error: str = ""
    resolved: dict[str, str] | None = None
    output: SqlOutput | None = None
    outcome: str = ""

    @property
    def key(self) -> str:
        """The name of the task within its job."""
        return str(self.settings["task_key"])

    @property
    def dependencies(self) -> list[dict[str, str]]:
        """The tasks before this one, each with ``task_key`` and perhaps the ``outcome`` that it must have."""
        return list(self.settings.get("depends_on", []))


@dataclass
class Run:
    """
    One run of a job, with a copy of the settings that it started with.

    ``tasks`` are in the order of the settings. ``queued_at`` is when the run entered the queue, in milliseconds since
    1970; 0 if it is not queued. ``queue_duration`` is how long it was queued before, in milliseconds.
    """

    run_id: int
    job_id: int
    settings: dict[str, Any]
    job_parameters: dict[str, str]
    tasks: list[TaskRun]
    created_time: int
    state: State = field(default_factory=State)
    idempotency_token: str = ""
    creator: str = USER
    queued_at: int = 0
    queue_duration: int = 0

    def leave_queue(self) -> None:
        """Add the time in the queue to ``queue_duration``, if the run was queued."""
        if self.queued_at:
            self.queue_duration += now() - self.queued_at
            self.queued_at = 0

    def task(self, key: str) -> TaskRun:
        """Return the run of one of the job's tasks."""
        return next(task for task in self.tasks if task.key == key)

    def task_with_id(self, run_id: int) -> TaskRun | None:
        """Return the task's run with this id; None if the id is another run's."""
        return next((task for task in self.tasks if task.run_id == run_id), None)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Run:
        """Build a run from the output of :func:`dataclasses.asdict`, or of a version whose jobs had one task."""
        fields = dict(stored)
        if (only := fields.pop("task", None)) is not None:
            fields["tasks"] = [only]
        tasks = [
            TaskRun(
                **task
                | {
                    "state": State(**task["state"]),
                    "output": SqlOutput(**task["output"]) if task.get("output") else None,
                }
            )
            for task in fields["tasks"]
        ]
        return cls(**fields | {"tasks": tasks, "state": State(**fields["state"])})


def now() -> int:
    """Return the current time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
