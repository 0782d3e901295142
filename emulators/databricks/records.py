"""What a workspace keeps of its jobs and runs, and the states that they can be in."""

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

# Why a run ended, in the newer form, when nothing else is known than how it ended.
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
    A request is refused.

    :param status: HTTP status.
    :param error_code: Databricks' name of the error.
    :param message: Databricks' words for it.
    """

    def __init__(self, status: int, error_code: str | int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code


def invalid(message: str) -> ApiError:
    """A request whose form is right and whose values are not."""
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


@dataclass
class Job:
    """A job. ``key`` is its name in the bundle, empty for one that was made by the API."""

    job_id: int
    settings: dict[str, Any]
    created_time: int
    key: str = ""
    creator: str = USER


@dataclass
class State:
    """
    Where a run or a task run stands. Times are milliseconds since 1970, 0 when there is none.

    ``life_cycle_state`` and ``result_state`` are the older form, ``code`` is the reason of the end in the newer one.
    """

    life_cycle_state: str = "PENDING"
    result_state: str = ""
    message: str = ""
    code: str = ""
    start_time: int = 0
    end_time: int = 0

    @property
    def active(self) -> bool:
        """It has not ended."""
        return self.life_cycle_state in ACTIVE_STATES

    def end(self, life_cycle_state: str, result_state: str, message: str = "", code: str = "") -> None:
        """Take the last state. The code follows from the others unless it is given."""
        self.life_cycle_state, self.result_state, self.message = life_cycle_state, result_state, message
        usual = "INTERNAL_ERROR" if life_cycle_state == "INTERNAL_ERROR" else "RUN_EXECUTION_ERROR"
        self.code = code or TERMINATION_CODES.get(result_state, usual)
        self.end_time = now()


@dataclass
class TaskRun:
    """The run of the task of a run, with the settings of the task."""

    run_id: int
    settings: dict[str, Any]
    state: State = field(default_factory=State)
    error: str = ""


@dataclass
class Run:
    """
    One run of a job, with a copy of the settings that it started with.

    ``queued_at`` is the time since when it waits in the queue, 0 when it does not; ``queue_duration`` is how long it
    waited before, both in milliseconds.
    """

    run_id: int
    job_id: int
    settings: dict[str, Any]
    job_parameters: dict[str, str]
    task: TaskRun
    created_time: int
    state: State = field(default_factory=State)
    idempotency_token: str = ""
    creator: str = USER
    queued_at: int = 0
    queue_duration: int = 0

    def leave_queue(self) -> None:
        """Count the time in the queue, if the run was in it."""
        if self.queued_at:
            self.queue_duration += now() - self.queued_at
            self.queued_at = 0

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Run:
        """The run that :func:`dataclasses.asdict` made this of."""
        task = TaskRun(**stored["task"] | {"state": State(**stored["task"]["state"])})
        return cls(**stored | {"task": task, "state": State(**stored["state"])})


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
