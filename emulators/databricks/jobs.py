"""The workspace's jobs and runs: the queue, the worker threads, and the files that store them."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from emulators.databricks.conditions import OperandError, outcome_of
from emulators.databricks.errors import InterruptedStatementError, StatementError
from emulators.databricks.export import Session
from emulators.databricks.functions import Secrets
from emulators.databricks.job_settings import checked_settings, jobs_of_bundle, texts_of, upstream_of
from emulators.databricks.records import (
    RESULT_STATES,
    TERMINATION_CODES,
    USER,
    Job,
    Run,
    TaskRun,
    invalid,
    now,
)
from emulators.databricks.references import ReferenceNotFoundError, resolve_references
from emulators.databricks.unity_catalog import add_version
from emulators.s3 import s3_filesystem

log = logging.getLogger(__name__)

# A run that waits has a thread too; jobs limit how many of their runs work.
MAX_PARALLEL_RUNS = 256
MAX_HOLD_SECONDS = 120.0
MAX_TOKEN_LENGTH = 64

# Databricks' message for a failed task. The reason is only in the task's output.
TASK_FAILURE = "Workload failed, see run output for details"

_EXCLUDED = "The run was skipped because the necessary conditions were not met."

HoldPoint = Literal["start", "end"]


@dataclass
class Control:
    """State that a run needs only while it is active: requests to stop, wait or fail."""

    hold_at: HoldPoint | None = None
    held: bool = False
    failure: dict[str, str] | None = None
    stop_reason: Literal["", "CANCELED", "TIMEDOUT"] = ""
    working: bool = False
    session: Session | None = None
    run_timer: threading.Timer | None = None
    task_timer: threading.Timer | None = None


class _StoppedError(Exception):
    """The run was cancelled or timed out, or the workspace closes."""


class Workspace:
    """
    Jobs and their runs, stored in files.

    All methods may be called from any thread. Methods that take an id raise :class:`ApiError` if the id is unknown.

    :param state_dir: directory of the files; created if missing.
    :param s3_endpoint_url: the emulator of S3, which holds the lake and the share.
    :param bundle: asset bundle whose jobs are created or updated, as by ``databricks bundle deploy``.
    :param secrets: the secrets that the principal of the jobs may read.
    """

    def __init__(self, *, state_dir: Path, s3_endpoint_url: str, bundle: Path, secrets: Secrets | None = None) -> None:
        self._secrets = secrets or {}
        self._jobs_file = state_dir / "jobs.json"
        self._runs_dir = state_dir / "runs"
        self._runs_dir.mkdir(parents=True, exist_ok=True)
        self._s3_endpoint_url = s3_endpoint_url
        self._filesystem = s3_filesystem(s3_endpoint_url)
        self._files_dir = bundle.parent
        self._changed = threading.Condition(threading.RLock())
        self._jobs: dict[int, Job] = {}
        self._runs: dict[int, Run] = {}
        self._controls: dict[int, Control] = {}
        self._closing = False
        self._pending_holds: list[HoldPoint] = []
        self._pending_failures: list[dict[str, str]] = []
        self._min_run_seconds = 0.0
        self._sources_change = False
        self._load()
        self._deploy(bundle)
        self._workers = ThreadPoolExecutor(MAX_PARALLEL_RUNS, thread_name_prefix="run")

    def close(self) -> None:
        """Stop the workers. The next workspace on the same directory marks the active runs as failed."""
        with self._changed:
            self._closing = True
            for control in self._controls.values():
                _cancel_timers(control)
                if control.session:
                    control.session.interrupt()
            self._changed.notify_all()
        self._workers.shutdown(wait=True, cancel_futures=True)

    # Jobs

    def create_job(self, settings: dict[str, Any], key: str = "", *, creator: str = USER) -> int:
        """Create a job and return its id."""
        with self._changed:
            # Derive the id from the bundle's key: the job gets the same id again after the files were deleted.
            job_id = int(hashlib.sha256(key.encode()).hexdigest()[:12], 16) if key else self._new_id()
            self._jobs[job_id] = Job(job_id, checked_settings(settings, self._files_dir), now(), key, creator)
            self._save_jobs()
            return job_id

    def job(self, job_id: int) -> Job:
        """Return a job."""
        with self._changed:
            if job_id not in self._jobs:
                raise invalid(f"Job {job_id} does not exist.")
            return self._jobs[job_id]

    def jobs(self) -> list[Job]:
        """Return all jobs, newest first."""
        with self._changed:
            return sorted(self._jobs.values(), key=lambda job: (-job.created_time, job.job_id))

    def replace_settings(self, job_id: int, settings: dict[str, Any]) -> None:
        """Replace a job's settings. Its active runs keep the old settings."""
        with self._changed:
            job = self.job(job_id)
            job.settings = checked_settings(settings, self._files_dir)
            self._save_jobs()

    def delete_job(self, job_id: int) -> None:
        """Delete a job. Its runs are kept."""
        with self._changed:
            del self._jobs[self.job(job_id).job_id]
            self._save_jobs()

    # Runs

    def run_now(
        self,
        job_id: int,
        parameters: Mapping[str, str],
        *,
        token: str = "",
        queue: bool | None = None,
        creator: str = USER,
    ) -> Run:
        """
        Start a run, or return the run that was already started with the same idempotency token.

        :param parameters: values that override the defaults of the job's parameters, or add to them.
        :param token: idempotency token, at most 64 characters.
        :param queue: whether the run waits if too many runs are active; by default the job's setting.
        :param creator: who starts the run.
        """
        if len(token) > MAX_TOKEN_LENGTH:
            raise invalid(f"The idempotency token can have at most {MAX_TOKEN_LENGTH} characters, it has {len(token)}.")
        with self._changed:
            job = self.job(job_id)
            if token:
                for earlier in self._runs.values():
                    if earlier.idempotency_token == token:
                        return earlier
            settings = json.loads(json.dumps(job.settings))
            defaults = {parameter["name"]: parameter["default"] for parameter in settings.get("parameters", [])}
            run = Run(
                run_id=self._new_id(),
                job_id=job_id,
                settings=settings,
                job_parameters=defaults | dict(parameters),
                tasks=[TaskRun(self._new_id(), task) for task in settings["tasks"]],
                created_time=now(),
                idempotency_token=token,
                creator=creator,
            )
            run.state.start_time = run.created_time
            for task in run.tasks:
                task.state.life_cycle_state = "BLOCKED" if task.dependencies else "PENDING"
            self._runs[run.run_id] = run
            self._begin(run, queue)
            return run

    def run(self, run_id: int) -> Run:
        """Return the run with this id, or the run of which a task's run has this id."""
        with self._changed:
            found = self._runs.get(run_id)
            if found is None:
                found = next((run for run in self._runs.values() if run.task_with_id(run_id)), None)
            if found is None:
                raise invalid(f"Run {run_id} does not exist.")
            return found

    def runs(self) -> list[Run]:
        """Return all runs, newest first."""
        with self._changed:
            return sorted(self._runs.values(), key=lambda run: (-run.created_time, run.run_id))

    def read(self, view: Callable[[], Any]) -> Any:
        """Call a function that reads jobs and runs, and prevent changes meanwhile."""
        with self._changed:
            return view()

    def cancel(self, run_id: int, reason: Literal["CANCELED", "TIMEDOUT"] = "CANCELED") -> None:
        """Ask a run to stop. Its state is TERMINATING until it has stopped. A run that has ended is not changed."""
        with self._changed:
            run = self.run(run_id)
            if not run.state.active:
                return
            control = self._controls[run.run_id]
            control.stop_reason = control.stop_reason or reason
            if not control.working:  # no worker has started the run, so none will end it
                self._stopped(run, control)
                return
            for state in (run.state, *(task.state for task in run.tasks)):
                if state.active and state.life_cycle_state != "BLOCKED":
                    state.life_cycle_state = "TERMINATING"
                    state.code = TERMINATION_CODES[control.stop_reason]
            self._save(run)
            if control.session:
                control.session.interrupt()
            self._changed.notify_all()

    def cancel_all(self, job_id: int | None, *, queued_only: bool = False) -> None:
        """Ask all active runs of one job, or of all jobs, to stop."""
        with self._changed:
            for run in self.runs():
                wanted = run.state.life_cycle_state == "QUEUED" if queued_only else run.state.active
                if wanted and job_id in (None, run.job_id):
                    self.cancel(run.run_id)

    # Controls of tests and demonstrations

    def hold(self, at: HoldPoint, count: int) -> None:
        """Make the next runs wait at a point until they are released or cancelled, at most :data:`MAX_HOLD_SECONDS`."""
        with self._changed:
            self._pending_holds.extend([at] * count)

    def release(self) -> None:
        """Let all waiting runs go on, and make no further runs wait."""
        with self._changed:
            self._pending_holds.clear()
            for control in self._controls.values():
                control.hold_at = None
            self._changed.notify_all()

    def fail_next(self, message: str, result_state: str, life_cycle_state: str, count: int) -> None:
        """Make the next runs end in this state, without executing any SQL."""
        if result_state not in RESULT_STATES or life_cycle_state not in {"TERMINATED", "INTERNAL_ERROR", "SKIPPED"}:
            raise invalid(f"A run cannot end as {life_cycle_state}/{result_state}.")
        failure = {"message": message, "result_state": result_state, "life_cycle_state": life_cycle_state}
        with self._changed:
            self._pending_failures.extend([failure] * count)

    def let_runs_last(self, seconds: float) -> None:
        """Let each run that begins from now on last at least so long; with 0, as long as its work takes."""
        with self._changed:
            self._min_run_seconds = seconds

    def let_sources_change(self, is_on: bool) -> None:
        """Commit a new version of its source before each run that begins from now on, as somebody who writes would."""
        with self._changed:
            self._sources_change = is_on

    def counts(self) -> dict[str, Any]:
        """Return the number of runs by state, the held runs, and the holds and failures not yet taken by a run."""
        with self._changed:
            states = Counter(
                "/".join(filter(None, (run.state.life_cycle_state, run.state.result_state))) for run in self.runs()
            )
            return {
                "runs": dict(states),
                "held": [run_id for run_id, control in self._controls.items() if control.held],
                "holds": list(self._pending_holds),
                "failures": len(self._pending_failures),
            }

    # Execution of runs

    def _begin(self, run: Run, queue: bool | None = None) -> None:
        """Submit a new run to a worker, queue it, or skip it."""
        if queue is None:
            queue = run.settings.get("queue", {}).get("enabled", False)
        limit = run.settings.get("max_concurrent_runs", 1)
        active = self._at_work(run)
        if len(active) >= limit and (not queue or limit == 0):  # with the limit 0, no run can ever start
            message = "This run was skipped because the limit of concurrent runs of the job has been reached."
            run.state.end("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED", message)
            for task in run.tasks:
                task.state.end("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED", message)
            self._save(run)
            return
        # Runs take holds and failures in the order in which the runs were created, queued runs included.
        self._controls[run.run_id] = Control(
            hold_at=self._pending_holds.pop(0) if self._pending_holds else None,
            failure=self._pending_failures.pop(0) if self._pending_failures else None,
        )
        if len(active) >= limit:
            run.state.life_cycle_state = "QUEUED"
            run.queued_at = now()
            self._save(run)
        else:
            self._submit(run)

    def _at_work(self, run: Run) -> list[Run]:
        """Return the other runs of a run's job that have left the queue, and not ended."""
        return [
            other
            for other in self._runs.values()
            if other is not run
            and other.job_id == run.job_id
            and other.state.life_cycle_state in {"PENDING", "RUNNING", "TERMINATING"}
        ]

    def _submit(self, run: Run) -> None:
        run.leave_queue()
        run.state.life_cycle_state = "PENDING"
        self._save(run)
        self._workers.submit(self._work, run)

    def _work(self, run: Run) -> None:
        """Execute a run in a worker thread. Whatever fails here, the run must end."""
        with self._changed:
            if self._closing or not run.state.active:
                return
            control = self._controls[run.run_id]
            control.working = True
            run.state.life_cycle_state = "RUNNING"
            self._save(run)
            control.run_timer = self._timer(run, run.settings.get("timeout_seconds", 0))
        try:
            self._perform(run, control)
        except (_StoppedError, InterruptedStatementError):
            with self._changed:
                if not self._closing:
                    self._stopped(run, control)
        except Exception as error:
            log.exception("Run %s failed unexpectedly", run.run_id)
            with self._changed:
                self._ended(run, "INTERNAL_ERROR", "FAILED", f"Unexpected failure: {error}")

    def _perform(self, run: Run, control: Control) -> None:
        earliest_end = time.monotonic() + self._min_run_seconds
        self._hold(control, "start")
        if self._sources_change:
            add_version(self._s3_endpoint_url, self._filesystem, run.job_parameters.get("source_table", ""))
        if control.failure is None:
            # One after the other. Those without a path between them would run at the same time in Databricks.
            for task in _in_order(run.tasks):
                self._perform_task(run, task, control)
        else:
            _in_order(run.tasks)[0].state.start_time = now()
        self._hold(control, "end")
        self._wait(control, lambda: False, earliest_end)
        with self._changed:
            self._stop_if_asked(control)
            failed = next((task for task in run.tasks if task.state.result_state == "FAILED"), None)
            if control.failure:
                failure = control.failure
                self._ended(run, failure["life_cycle_state"], failure["result_state"], failure["message"])
            elif failed:
                # As in Databricks, the run is INTERNAL_ERROR although its task is TERMINATED.
                message = f"Task {failed.key} failed with message: {failed.state.message}."
                if any(task.state.result_state == "UPSTREAM_FAILED" for task in run.tasks):
                    message += " This caused all downstream tasks to get skipped."
                self._ended(run, "INTERNAL_ERROR", "FAILED", message, "RUN_EXECUTION_ERROR")
            else:
                self._ended(run, "TERMINATED", "SUCCESS", "")

    def _perform_task(self, run: Run, task: TaskRun, control: Control) -> None:
        """Execute a task, or skip it because of what became of the tasks before it."""
        with self._changed:
            self._stop_if_asked(control)
            if verdict := _verdict_of_upstream(run, task):
                task.state.end("SKIPPED", *verdict)
                self._save(run)
                return
            task.state.life_cycle_state = "RUNNING"
            task.state.start_time = now()
            if control.task_timer:
                control.task_timer.cancel()
            control.task_timer = self._timer(run, task.settings["timeout_seconds"])
            upstream = upstream_of(task.key, run.settings["tasks"])
            first_rows = {
                other.key: other.output.first_row if other.output else None
                for other in run.tasks
                if other.key in upstream
            }
            try:
                task.resolved = {
                    name: resolve_references(text, run.job_parameters, first_rows)
                    for name, text in texts_of(task.settings).items()
                }
                if condition := task.settings.get("condition_task"):
                    task.outcome = outcome_of(condition["op"], task.resolved["left"], task.resolved["right"])
                    task.state.end("TERMINATED", "SUCCESS")
            except (ReferenceNotFoundError, OperandError) as problem:
                task.error = str(problem)
                task.state.end("INTERNAL_ERROR", "FAILED", task.error, "INVALID_RUN_CONFIGURATION")
            self._save(run)
            if not task.state.active:
                return
        self._execute_file(run, task, control)

    def _execute_file(self, run: Run, task: TaskRun, control: Control) -> None:
        session = Session(self._s3_endpoint_url, self._filesystem, self._secrets)
        try:
            with self._changed:
                control.session = session
                self._stop_if_asked(control)
            path = Path(task.settings["sql_task"]["file"]["path"])
            # Job parameters are passed to the task, and override task parameters of the same name.
            parameters = (task.resolved or {}) | run.job_parameters
            session.execute(path.read_text("utf-8"), parameters)
            error = ""
        except StatementError as problem:
            error = str(problem)
        except OSError as problem:  # the SQL file was deleted
            error = f"[INTERNAL_ERROR] {problem}"
        finally:
            with self._changed:
                control.session = None
            session.close()
        with self._changed:
            self._stop_if_asked(control)
            task.error, task.output = error, session.output
            task.state.end("TERMINATED", "FAILED" if error else "SUCCESS", TASK_FAILURE if error else "")
            self._save(run)

    def _timer(self, run: Run, seconds: int) -> threading.Timer | None:
        """Start a timer that stops a run; 0 seconds mean none."""
        if not seconds:
            return None
        timer = threading.Timer(seconds, self.cancel, (run.run_id, "TIMEDOUT"))
        timer.daemon = True
        timer.start()
        return timer

    def _hold(self, control: Control, point: HoldPoint) -> None:
        with self._changed:
            control.held = control.hold_at == point
        self._wait(control, lambda: control.hold_at != point, time.monotonic() + MAX_HOLD_SECONDS)
        with self._changed:
            control.held = False

    def _wait(self, control: Control, done: Callable[[], bool], deadline: float) -> None:
        """Wait until a condition is true or the deadline has passed; raise _StoppedError if the run must stop."""
        with self._changed:
            while not done() and (left := deadline - time.monotonic()) > 0:
                self._stop_if_asked(control)
                self._changed.wait(left)
            self._stop_if_asked(control)

    def _stop_if_asked(self, control: Control) -> None:
        if self._closing or control.stop_reason:
            raise _StoppedError

    def _stopped(self, run: Run, control: Control) -> None:
        if control.stop_reason == "TIMEDOUT":
            self._ended(run, "TERMINATED", "TIMEDOUT", "Run timed out.")
        else:
            self._ended(run, "TERMINATED", "CANCELED", "Run cancelled.")

    def _ended(self, run: Run, life_cycle_state: str, result_state: str, message: str, code: str = "") -> None:
        """Set a run's final state, and submit the next queued run of its job."""
        _end(run, life_cycle_state, result_state, message, code)
        control = self._controls.pop(run.run_id, None)
        if control:
            _cancel_timers(control)
        self._save(run)
        # A run that was cancelled in the queue leaves no place to the next one.
        has_place = len(self._at_work(run)) < run.settings.get("max_concurrent_runs", 1)
        for waiting in reversed(self.runs()) if has_place and not self._closing else []:
            if waiting.job_id == run.job_id and waiting.state.life_cycle_state == "QUEUED":
                self._submit(waiting)
                break
        self._changed.notify_all()

    # Files

    def _load(self) -> None:
        if self._jobs_file.exists():
            for stored in json.loads(self._jobs_file.read_text("utf-8")):
                self._jobs[stored["job_id"]] = Job(**stored)
        for file in self._runs_dir.glob("*.json"):
            stored = json.loads(file.read_text("utf-8"))
            if not {"task", "tasks"} & stored.keys():
                raise RuntimeError(f"{file} was written by an older version of this emulator: delete its folder")
            run = Run.from_json(stored)
            self._runs[run.run_id] = run
            if run.state.active:
                _end(run, "INTERNAL_ERROR", "FAILED", "Run failed because the workspace was restarted.")
                self._save(run)

    def _save(self, run: Run) -> None:
        _write_json(self._runs_dir / f"{run.run_id}.json", asdict(run))

    def _save_jobs(self) -> None:
        _write_json(self._jobs_file, [asdict(job) for job in self._jobs.values()])

    def _deploy(self, bundle: Path) -> None:
        for key, settings in jobs_of_bundle(bundle).items():
            deployed = [job for job in self._jobs.values() if job.key == key]
            if deployed:
                self.replace_settings(deployed[0].job_id, settings)
            else:
                self.create_job(settings, key)

    def _new_id(self) -> int:
        """Return a random id of 15 digits like Databricks': too large for 32 bits, small enough for JavaScript."""
        while True:
            number = secrets.randbelow(9 * 10**14) + 10**14
            if number not in self._runs and number not in self._jobs:
                return number


def _end(run: Run, life_cycle_state: str, result_state: str, message: str, code: str = "") -> None:
    """Set the final state of a run, and of its tasks that have not ended."""
    for task in _in_order(run.tasks):
        if not task.state.active:
            continue
        # What ends a run ends the task that it works on; the tasks behind that one are skipped.
        if result_state in {"FAILED", "TIMEDOUT"} and (verdict := _verdict_of_upstream(run, task)):
            task.state.end("SKIPPED", *verdict)
            continue
        task.error = "" if result_state in {"SUCCESS", "CANCELED"} else message
        task.state.end(life_cycle_state, result_state, message, code)
    run.leave_queue()
    run.state.end(life_cycle_state, result_state, message, code)


def _in_order(tasks: list[TaskRun]) -> list[TaskRun]:
    """Return tasks so that each comes after those that it depends on."""
    ordered: list[TaskRun] = []
    while len(ordered) < len(tasks):
        done = {task.key for task in ordered}
        ordered.append(
            next(
                task
                for task in tasks
                if task.key not in done and done.issuperset(other["task_key"] for other in task.dependencies)
            )
        )
    return ordered


def _verdict_of_upstream(run: Run, task: TaskRun) -> tuple[str, str] | None:
    """Return result state and message of a task that cannot run because of the tasks before it, which have ended."""
    excluded = []
    for dependency in task.dependencies:
        other = run.task(dependency["task_key"])
        state = other.state.result_state
        if state in {"CANCELED", "UPSTREAM_CANCELED"}:
            return "UPSTREAM_CANCELED", "An upstream task was canceled."
        if state not in {"SUCCESS", "EXCLUDED"}:
            return "UPSTREAM_FAILED", "An upstream task failed."
        if dependency.get("outcome", other.outcome) != other.outcome:
            return "EXCLUDED", _EXCLUDED
        excluded.append(state == "EXCLUDED")
    # An excluded task counts as successful, unless all tasks before this one are excluded.
    return ("EXCLUDED", _EXCLUDED) if excluded and all(excluded) else None


def _cancel_timers(control: Control) -> None:
    for timer in (control.run_timer, control.task_timer):
        if timer:
            timer.cancel()


def _write_json(path: Path, content: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content), "utf-8")
    partial.replace(path)
