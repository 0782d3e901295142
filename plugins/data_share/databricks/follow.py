"""Follows a Databricks job run from the triggerer, without a worker slot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.providers.databricks.hooks.databricks import DatabricksHook, RunState
from airflow.providers.databricks.utils.databricks import extract_failed_task_errors_async
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import BaseTrigger, StartTriggerArgs, TaskFailedEvent, TaskSuccessEvent, TriggerEvent
from asgiref.sync import sync_to_async

from data_share.databricks.hook import TRIES, DataShareDatabricksHook
from data_share.databricks.links import DatabricksRunLink
from data_share.outcome.classify import code_of_status, databricks_status, failure_of, is_certificate_error
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import FAILURE_KEY, ShareError, logged

# The pause between two polls is a tenth of the age of the run: its end is noticed within a tenth of its time.
_POLL_AGE_RATIO = 0.1
_MIN_POLL_SECONDS = 0.35
_MAX_POLL_SECONDS = 30.0
# Each failed poll makes the pause longer: an outage has to last before the run counts as lost.
_FAILED_POLL_SECONDS = 0.5
_POLL_BACKOFF = 1.5

# A run counts as lost after so many failed polls in a row. The hook makes each poll up to three times.
_MAX_FAILED_POLLS = 10
_TRIES_PER_POLL = 3

# Airflow's own time-out of the trigger must come after ours: it does not cancel the run on Databricks.
_TRIGGER_TIMEOUT_MARGIN = timedelta(minutes=10)

_PERMANENT_STATUS_CODES = frozenset({400, 401, 403, 404})
_SIGN_IN_STATUS_CODES = frozenset({401, 403})

_log = logging.getLogger(__name__)

_CODE_BY_RESULT = {
    "CANCELED": FailureCode.EXPORT_CANCELED,
    "TIMEDOUT": FailureCode.EXPORT_TIMED_OUT,
}
_ADVICE_BY_RESULT = {
    "TIMEDOUT": "Find out on the run's page why it is slow; if it has to take so long, raise timeout_seconds in the "
    "asset bundle, and deploy it. Then start the sync again.",
    "MAXIMUM_CONCURRENT_RUNS_REACHED": "Give the export job its queue back, as the asset bundle does. Then start the "
    "sync again.",
}

# What the export's SQL says when it refuses columns that the target lacks, before it writes.
_NEW_COLUMNS = re.compile(
    r"The export would have columns that the target lacks: .+?(?:\. Nothing was exported\.|\Z)", re.DOTALL
)
_ADVICE_FOR_NEW_COLUMNS = (
    "Set schema_drift in the dataset file: add_new adds new columns to the target, if Snowflake has types for them; "
    "ignore_new leaves them in Databricks, and so does source.exclude for those that it names. A column that was "
    "renamed in the source is renamed in the target (ALTER TABLE ... RENAME COLUMN). Then start the sync again. If the "
    "target has got the column since the last publish, start the sync again: it asks Snowflake for the columns."
)
# What the plan's SQL says when the version that was published last cannot be exported again.
_NOT_VERIFIED = re.compile(r"The target cannot be verified: .+?(?:\. Nothing was exported\.|\Z)", re.DOTALL)
# What it says when an append cannot tell which rows are new.
_NOT_APPENDED = re.compile(
    r"An append adds only new rows, and it cannot be told which these are: .+?(?:\. Nothing was exported\.|\Z)",
    re.DOTALL,
)
# What Databricks says of a version, or of changes, whose time is over: the history may have them longer than the files.
_NO_LONGER_READ = re.compile(
    r"\[(DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION|DELTA_CHANGE_DATA_FILE_NOT_FOUND"
    r"|DELTA_MISSING_CHANGE_DATA|DELTA_CHANGE_DATA_FEED_INCOMPATIBLE_(SCHEMA_CHANGE|DATA_SCHEMA))\b"
)
# What it says of a file that VACUUM has removed: the history has no entry of each VACUUM. The newest version has files.
_FILE_IS_GONE = re.compile(r"\[(DELTA_FILE_NOT_FOUND(_DETAILED)?|FAILED_READ_FILE[.]DBR_FILE_NOT_EXIST)\]")
_ADVICE_FOR_NO_LONGER_READ = (
    "Databricks does not read any more what has changed since the last publish. Start the sync again: after a failure, "
    "it exports everything. With load_mode append, which cannot, start it with full_refresh: true."
)
# What the plan's SQL cannot do without, besides the source.
_NO_INFORMATION_SCHEMA = re.compile(r"\binformation_schema\b", re.IGNORECASE)
_ADVICE_FOR_NO_INFORMATION_SCHEMA = (
    "Grant USE SCHEMA and SELECT on the information_schema of the source's catalog to the principal that exports, or "
    "set pinned: false in the dataset file. Then start the sync again."
)
# What Databricks says of a table with policies for rows or columns, of which it shows no versions.
_NO_VERSIONS = re.compile(
    r"\[((ROW_LEVEL_SECURITY|COLUMN_MASKS|ROW_LEVEL_SECURITY_COLUMN_MASK)_FEATURE_NOT_SUPPORTED"
    r"|FGAC_TIME_TRAVEL_NOT_SUPPORTED)\b"
)
_ADVICE_FOR_NO_VERSIONS = (
    "The source has policies for rows or columns, so Databricks shows no versions of it: set pinned: false in the "
    "dataset file. Then start the sync again."
)

# The task of the export job whose outcome is false if nothing is new at the source: see include/databricks.
_CONDITION_TASK = "changed"

_LIST_RUNS = ("GET", "2.2/jobs/runs/list")
# A page lists 20 runs, so this is 1,000 active runs: ten at work, the others in the job's queue. More never occur.
_MAX_PAGES = 50


class DatabricksRunFailedError(ShareError, AirflowFailException):
    """The followed run did not succeed, took too long, or can no longer be followed."""

    code = FailureCode.EXPORT_FAILED


class TooManyRunsError(AirflowException):
    """The export job has more active runs than one search reads."""


@dataclass(frozen=True)
class FinishedRun:
    """
    A Databricks run that succeeded.

    :param run_id: id of the run
    :param run_page_url: its page in the workspace
    :param job_parameters: the parameters that the run had, by name, as Databricks reports them
    :param is_unchanged: whether it has left the export out, as nothing is new at the source
    """

    run_id: int
    run_page_url: str
    job_parameters: dict[str, str]
    is_unchanged: bool = False

    def to_xcom(self) -> dict[str, Any]:
        """Return the XCom that the next steps read."""
        return {
            "run_id": self.run_id,
            "run_page_url": self.run_page_url,
            "export_path": self.job_parameters.get("export_path"),
            "unchanged": self.is_unchanged,
        }


async def follow_run(
    hook: DatabricksHook,
    run_id: int,
    timeout_seconds: float,
    on_run_page: Callable[[str], Awaitable[None]],
) -> FinishedRun:
    """
    Poll a run until it succeeds.

    :param hook: a hook inside its ``async with``
    :param run_id: id of the job run
    :param timeout_seconds: maximum duration, queueing included; a run that takes longer is cancelled. It is counted
        from the run's start on Databricks, so a triggerer that takes over does not count from zero again
    :param on_run_page: called once with the address of the run's page, as soon as it is known
    :raises DatabricksRunFailedError: the run failed, timed out or is lost; with Databricks' reason and the run's page
    """
    failures = 0
    has_new_credentials = False
    first_poll = started = time.time()
    page = ""
    is_page_reported = False
    while True:
        try:
            run = await hook.a_get_run(run_id)
            failures = 0
            has_new_credentials = False
        except Exception as error:
            failures += 1
            status = databricks_status(error)
            is_untrusted = is_certificate_error(error)
            if status in _SIGN_IN_STATUS_CODES and not has_new_credentials:
                # Read the connection again: its credentials may have been replaced during a wait of hours.
                _drop_cached_credentials(hook)
                has_new_credentials = True
            elif is_untrusted or status in _PERMANENT_STATUS_CODES or failures >= _MAX_FAILED_POLLS:
                code = code_of_status(status, FailureCode.EXPORT_MISSING)
                raise DatabricksRunFailedError(
                    f"The Databricks run {run_id} cannot be followed any longer: {error}. It may still be running.",
                    code=FailureCode.CERTIFICATE_REFUSED if is_untrusted else code,
                ) from error
            run = None
        if run is not None:
            page = str(run.get("run_page_url", ""))
            if not is_page_reported:
                await on_run_page(page)
                is_page_reported = True
            state = _state_if_known(run)
            if state is not None and state.is_terminal:
                if not state.is_successful:
                    message = await _failure_message(hook, run, state)
                    raise failed_run(message, state.result_state, page, published=_parameters(run).get("published"))
                parameters = _parameters(run)
                return FinishedRun(
                    run_id=run_id, run_page_url=page, job_parameters=parameters, is_unchanged=_is_unchanged(run)
                )
            started = run.get("start_time", 0) / 1000 or first_poll
        # After a failed poll too: during an outage, each poll may take long.
        age = time.time() - started
        if age > timeout_seconds:
            try:
                await _cancel(hook, run_id)
                outcome = "was cancelled"
            except Exception as error:
                outcome = f"could not be cancelled: {error}; it may still be running"
            raise DatabricksRunFailedError(
                f"The Databricks run {run_id} took longer than {timeout_seconds / 60:g} minutes "
                f"(export_timeout_minutes in the dataset file) and {outcome}.",
                code=FailureCode.EXPORT_TIMED_OUT,
                databricks_run_url=page or None,
                what_to_do="Find out on the run's page why it is slow; if it has to take so long, raise "
                "export_timeout_minutes in the dataset file. Then start the sync again.",
            )
        least = _FAILED_POLL_SECONDS * _POLL_BACKOFF**failures if failures else _MIN_POLL_SECONDS
        pause = max(age * _POLL_AGE_RATIO, least)
        await asyncio.sleep(min(pause, _MAX_POLL_SECONDS))


def failed_run(message: str, result: str, page: str, *, published: str | None = None) -> DatabricksRunFailedError:
    """
    Return the error for a run that did not succeed.

    :param message: what Databricks says about it
    :param result: its ``result_state``
    :param page: its page in the workspace
    :param published: its parameter of this name, which says whether it may have read an earlier version
    """
    if refusal := _NEW_COLUMNS.search(message):
        return DatabricksRunFailedError(
            f"{refusal[0]} The target is as it was.",
            code=FailureCode.SCHEMA_DRIFT,
            databricks_run_url=page,
            what_to_do=_ADVICE_FOR_NEW_COLUMNS,
        )
    if refusal := _NOT_VERIFIED.search(message):
        return DatabricksRunFailedError(refusal[0], code=FailureCode.VERIFY_IMPOSSIBLE, databricks_run_url=page)
    if refusal := _NOT_APPENDED.search(message):
        return DatabricksRunFailedError(refusal[0], code=FailureCode.INCREMENT_IMPOSSIBLE, databricks_run_url=page)
    known = _known(published)
    reads_earlier = known.get("verify") or (known.get("increment") and not known.get("no_increment_because"))
    is_gone = _NO_LONGER_READ.search(message) or (reads_earlier and _FILE_IS_GONE.search(message))
    if is_gone and known.get("verify"):
        return DatabricksRunFailedError(message, code=FailureCode.VERIFY_IMPOSSIBLE, databricks_run_url=page)
    advice = _ADVICE_BY_RESULT.get(result)
    if _NO_VERSIONS.search(message):
        advice = _ADVICE_FOR_NO_VERSIONS
    elif is_gone:
        advice = _ADVICE_FOR_NO_LONGER_READ
    elif _NO_INFORMATION_SCHEMA.search(message):
        advice = _ADVICE_FOR_NO_INFORMATION_SCHEMA
    return DatabricksRunFailedError(
        message, code=_CODE_BY_RESULT.get(result), databricks_run_url=page, what_to_do=advice
    )


def _parameters(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job parameters of a run, by name."""
    return {one["name"]: one.get("value", one.get("default")) for one in run.get("job_parameters", [])}


def _known(published: str | None) -> dict[str, Any]:
    """Return what the parameter of a run says of the last publish; nothing if it is not readable."""
    with contextlib.suppress(ValueError):
        if isinstance(known := json.loads(published or "{}"), dict):
            return known
    return {}


def _is_unchanged(run: dict[str, Any]) -> bool:
    """Return whether the condition of the job that something is new was false; a job of an earlier version has none."""
    return any(
        task.get("task_key") == _CONDITION_TASK and task.get("condition_task", {}).get("outcome") == "false"
        for task in run.get("tasks", [])
    )


def _state_if_known(run: dict[str, Any]) -> RunState | None:
    """Return the state of a run; None if the provider does not know the state, which counts as still running."""
    if run["state"]["life_cycle_state"] not in RunState.RUN_LIFE_CYCLE_STATES:
        return None
    return RunState(**run["state"])


async def _failure_message(hook: DatabricksHook, run: dict[str, Any], state: RunState) -> str:
    reasons = []
    try:
        for task in await extract_failed_task_errors_async(hook, run, state):
            reasons.append(f"task {task['task_key']}: {task['error']}")
    except Exception as error:
        # Report the state without its details rather than fail.
        reasons.append(f"details could not be read: {error}")
    if state.state_message and not any(state.state_message in reason for reason in reasons):
        reasons.insert(0, state.state_message)
    outcome = state.result_state or state.life_cycle_state
    reason = "; ".join(reason.strip().rstrip(".") for reason in reasons) or "no reason given"
    return f"The Databricks run {run['run_id']} ended as {outcome}: {reason}."


def _drop_cached_credentials(hook: DatabricksHook) -> None:
    # The provider's hook (7.23.0) caches its connection and tokens, and has no method to read them again.
    hook.__dict__.pop("databricks_conn", None)
    hook.oauth_tokens = {}


async def _cancel(hook: DatabricksHook, run_id: int) -> None:
    # The provider's hook has no asynchronous cancel_run.
    await sync_to_async(hook.cancel_run)(run_id)


def cancel_exports_of(hook: DatabricksHook, job_id: str, run_key: str) -> list[int]:
    """
    Cancel all active runs of the export job that belong to one sync; return their ids.

    It searches by run key, so it also finds a run that no task follows: the step that started it died, or the step
    that waits for it had not begun.

    :param hook: the workspace
    :param job_id: id of the export job
    :param run_key: run key of the sync, which its runs have as a job parameter
    :raises Exception: the first error of those that cancelling raised; all runs were tried
    """
    cancelled: list[int] = []
    errors: list[Exception] = []
    page: dict[str, str] = {}
    for _ in range(_MAX_PAGES):
        # The provider's hook has no method that lists the runs of a job by page.
        listed = hook._do_api_call(_LIST_RUNS, {"job_id": job_id, "active_only": "true", **page})
        for run in listed.get("runs", []):
            parameters = _parameters(run)
            if parameters.get("run_key") == run_key and run["state"]["life_cycle_state"] != "TERMINATING":
                try:
                    hook.cancel_run(run["run_id"])
                    cancelled.append(run["run_id"])
                except Exception as error:
                    _log.warning("The Databricks run %s could not be cancelled: %s", run["run_id"], error)
                    errors.append(error)
        if not listed.get("next_page_token"):
            if errors:
                raise errors[0]
            return cancelled
        page = {"page_token": listed["next_page_token"]}
    raise TooManyRunsError(f"Job {job_id} has more active runs than the {_MAX_PAGES} pages that were read.")


class DatabricksRunTrigger(BaseTrigger):
    """
    Follows a run and ends the task itself: no worker is needed to start, wait or finish.

    Airflow renders the fields, which are templates, only after ``__init__``, so ``run()`` checks their values.

    :param databricks_conn_id: Airflow connection of the workspace
    :param run_id: id of the job run
    :param timeout_seconds: maximum duration from the run's start on Databricks; then the run is cancelled
    """

    def __init__(self, databricks_conn_id: str, run_id: str, timeout_seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.databricks_conn_id = databricks_conn_id
        self.run_id = run_id
        self.timeout_seconds = timeout_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments with which another process creates this trigger again."""
        return (
            f"{DatabricksRunTrigger.__module__}.{DatabricksRunTrigger.__qualname__}",
            {
                "databricks_conn_id": self.databricks_conn_id,
                "run_id": self.run_id,
                "timeout_seconds": self.timeout_seconds,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follow the run to its end, and yield exactly one event, which ends the task."""
        try:
            hook = _hook(self.databricks_conn_id, tries=_TRIES_PER_POLL)
            async with hook:
                finished = await follow_run(
                    hook, _run_id(self.run_id), float(self.timeout_seconds), self._push_run_page
                )
            await self._push(XCom.XCOM_RETURN_KEY, finished.to_xcom())
        except Exception as error:
            # Report the error here: Airflow shows an exception from run() as "trigger failure", without its message.
            self.log.error("%s", error)
            step = self.task_instance.task_id if self.task_instance else ""
            # Airflow never clears this XCom: the run id says which export the failure is about.
            await self._push(FAILURE_KEY, {**logged(failure_of(error, step)), "run_id": str(self.run_id)})
            yield TaskFailedEvent()
            return
        if finished.is_unchanged:
            self.log.info("Databricks run %s wrote nothing: nothing is new at the source", finished.run_id)
        else:
            self.log.info("Databricks run %s wrote %s", finished.run_id, finished.to_xcom()["export_path"])
        yield TaskSuccessEvent()

    async def on_kill(self) -> None:
        """
        Cancel the run on Databricks if a person ended the task.

        Airflow also calls this when a triggerer stalled and another one took over its triggers. Then the task is still
        deferred and the other triggerer follows the run, so the run must go on.
        """
        ti = self.task_instance
        if ti is None or await sync_to_async(_is_deferred)(ti.dag_id, ti.run_id, ti.task_id):
            return
        self.log.info("Cancelling the Databricks run %s: the task was ended by a person", self.run_id)
        await _cancel(_hook(self.databricks_conn_id), _run_id(self.run_id))

    async def _push_run_page(self, page: str) -> None:
        # Pushed at once, so the link works while the run is still active.
        await self._push(DatabricksRunLink.xcom_key, page)

    async def _push(self, key: str, value: Any) -> None:
        # Not in TaskSuccessEvent: Airflow 3.3 encodes its XComs twice, so a number would arrive as text.
        ti = self.task_instance
        if ti is None:
            raise RuntimeError("A trigger that ends its task must belong to a task")
        await XCom.aset(key, value, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id)


class DatabricksRunSensor(BaseOperator):
    """
    Waits for a job run that an earlier task started; returns its id, its page and the export path that it was given.

    Closes a gap of provider 7.23.0: it has sensors for SQL statements and partitions but none for a job run, and its
    deferrable operators need a worker twice, to defer and to resume. This sensor starts and ends in the triggerer.

    :param databricks_conn_id: Airflow connection of the workspace
    :param run_id: id of the job run; a template
    :param timeout_seconds: maximum duration from the run's start on Databricks; then the run is cancelled
    """

    template_fields: Sequence[str] = ("databricks_conn_id", "run_id")
    ui_color = "#1CB1C2"
    ui_fgcolor = "#fff"
    start_from_trigger = True
    operator_extra_links = (DatabricksRunLink(),)

    def __init__(
        self,
        *,
        databricks_conn_id: str,
        run_id: str,
        timeout_seconds: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.databricks_conn_id = databricks_conn_id
        self.run_id = run_id
        self.timeout_seconds = timeout_seconds
        self.run_page_url = ""
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=f"{DatabricksRunTrigger.__module__}.{DatabricksRunTrigger.__qualname__}",
            trigger_kwargs={
                "databricks_conn_id": databricks_conn_id,
                "run_id": run_id,
                "timeout_seconds": timeout_seconds,
            },
            next_method="execute",
            timeout=timedelta(seconds=timeout_seconds) + _TRIGGER_TIMEOUT_MARGIN,
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """Follow the run in this process: only for ``dag.test()``, which cannot start a task in the triggerer."""
        return asyncio.run(self._follow()).to_xcom()

    async def _follow(self) -> FinishedRun:
        hook = _hook(self.databricks_conn_id, tries=_TRIES_PER_POLL)
        async with hook:
            return await follow_run(hook, _run_id(self.run_id), self.timeout_seconds, self._keep_run_page)

    async def _keep_run_page(self, page: str) -> None:
        self.run_page_url = page


def _hook(databricks_conn_id: str, tries: int = TRIES) -> DatabricksHook:
    return DataShareDatabricksHook(databricks_conn_id, tries=tries, caller="DatabricksRunSensor")


def _run_id(rendered: str) -> int:
    try:
        return int(rendered)
    except (TypeError, ValueError):
        raise DatabricksRunFailedError(
            f"There is no Databricks run to wait for: the step that starts the export left {rendered!r} as its run id.",
            code=FailureCode.EXPORT_MISSING,
        ) from None


def _is_deferred(dag_id: str, run_id: str, task_id: str) -> bool:
    # Imported late: only processes that talk to Airflow's supervisor can import it.
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(dag_id=dag_id, task_ids=[task_id], run_ids=[run_id])
    return bool(states.get(run_id, {}).get(task_id) == "deferred")
