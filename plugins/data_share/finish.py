"""The last step of a sync: cleans up in Snowflake and Databricks, and decides how the sync ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from airflow.configuration import conf
from airflow.sdk import Context, Variable

from data_share.attempts import CLEAR_NUMBER_KEY, made_since_clear
from data_share.databricks.follow import cancel_exports_of
from data_share.databricks.hook import DataShareDatabricksHook
from data_share.outcome.diagnose import failure_of_sync, reports_of
from data_share.outcome.report import FAILURE_KEY, NotPublishedError
from data_share.snowflake.statements import SnowflakeSyncOperator
from data_share.steps import BEFORE_FINISH, EXPORT_TO_S3, PUBLISH, WAIT_FOR_EXPORT, task_states

_DATABRICKS_TIMEOUT_SECONDS = 30
# Airflow sends SIGTERM, and SIGKILL five seconds later; two seconds are margin.
_MAX_KILL_SECONDS = 7
_KILLED_POLL_SECONDS = 0.2


class FinishSyncOperator(SnowflakeSyncOperator):
    """
    Cleans up after a sync that was not published, and fails with the reason of the failed step; else does nothing.

    It drops the staging tables, and cancels an export that no task follows any more. Three things leave such an export
    behind without a call of the trigger's ``on_kill``: the starting step was killed before it knew the run's id, the
    sync was ended before the triggerer took over, or a person set the state of the waiting step.

    It must fail itself, for a run gets the state of its last tasks, and when a person sets a run to failed, Airflow
    (3.3) skips the tasks that have not started: after a clean-up that succeeds, a cancelled sync would be a success.

    A sync counts as published if ``publish`` succeeded and returned its result after the run was last cleared. An
    older result, or one of a publish that a person ended, counts if it is about this sync's export and the ledger has
    that export. A publish that was killed, or that waited for another attempt, may have committed without returning a
    result: then the ledger has the export, and the report says so.
    """

    # The scheduler has a copy of the DAG with these fields: so it knows where the end of the sync is to be sent.
    template_fields: Sequence[str] = (*SnowflakeSyncOperator.template_fields, "databricks_conn_id", "webhook_conn_id")
    # No link: its queries say nothing about the sync.
    operator_extra_links = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.databricks_conn_id = self.share.databricks_conn_id
        self.webhook_conn_id = self.share.webhook_conn_id

    def execute(self, context: Context) -> None:
        """Clean up, then succeed or fail with the sync."""
        ti, dag_run = context["ti"], context["dag_run"]
        # No error handling: if Airflow does not answer with the states, this step has to be retried.
        states = task_states(ti, BEFORE_FINISH)
        answer = ti.xcom_pull(task_ids=PUBLISH.id)
        if states.get(PUBLISH.id) == "success" and made_since_clear(answer, dag_run):
            # No export runs, and publish has dropped the staging tables. A dry run keeps them until here: if its
            # process dies before Airflow knows the result, the next attempt needs them. So does a verification. Where
            # nothing was new, there are none.
            if _published_nothing(answer) and not answer.get("unchanged"):
                self._context = context
                self._drop_staging("after the dry run")
            return
        self._context = context
        started = ti.xcom_pull(task_ids=EXPORT_TO_S3.id, key="export")
        reports = reports_of(ti, dag_run, BEFORE_FINISH, started)
        # Before waiting for killed steps: without the staging tables, a step that begins only now fails.
        self._drop_staging("at once")
        if wait_for_killed_steps(context, BEFORE_FINISH, states):
            self._drop_staging("after the steps")
            answer = ti.xcom_pull(task_ids=PUBLISH.id)
        # A sync that loads an earlier export has started no run on Databricks.
        if not self.sync.is_reload:
            try:
                self._cancel_exports()
            except Exception:
                self.log.exception("An export of this run may still be running on Databricks")
        is_published, in_ledger = self._ask_ledger(context, states, answer)
        if is_published:
            return
        later_reports = reports_of(ti, dag_run, BEFORE_FINISH, started)
        failure = failure_of_sync(BEFORE_FINISH, states, reports, later_reports, in_ledger=in_ledger)
        if failure.databricks_run_url is None and states.get(EXPORT_TO_S3.id) == "success":
            failure = replace(failure, databricks_run_url=ti.xcom_pull(task_ids=EXPORT_TO_S3.id, key="run_page_url"))
        raise NotPublishedError(failure)

    def _ask_ledger(self, context: Context, states: Mapping[str, str | None], answer: Any) -> tuple[bool, bool | None]:
        """
        Return whether this sync counts as published, and whether the ledger has its export.

        The second is None if the ledger cannot be read. If only the second is true, the publish committed without
        returning a result to Airflow.
        """
        dag_run = context["dag_run"]
        # If export_to_s3 failed, the XComs can only be about the export of an earlier attempt.
        has_export = self.sync.is_reload or states.get(EXPORT_TO_S3.id) == "success"
        export = self.sync.found_export if has_export else None
        is_success = states.get(PUBLISH.id) == "success"
        is_answer = made_since_clear(answer, dag_run) or (
            is_success and answer and export and _is_about(answer, export)
        )
        if is_answer and _published_nothing(answer):
            return is_success, False
        # Not always this sync's export: a repeated append returns the ledger row of the export it appended first.
        path = answer["export_path"] if is_answer else export and export["export_path"]
        if path is None:
            return False, False
        try:
            rows = self._run("select_ledger_row", bindings=[self.sync.key])[-1].rows
        except Exception:
            self.log.exception("The ledger cannot be read: it is unknown whether this sync was published")
            return False, None
        rows = [row for row in rows if row["EXPORT_PATH"] == path]
        if is_answer and rows:
            return True, True
        if not made_since_clear(export, dag_run):
            # Clearing a run restarts it: rows that it published before do not count.
            started = dag_run.start_date.astimezone(UTC).replace(tzinfo=None) if dag_run.start_date else datetime.min
            rows = [row for row in rows if row["PUBLISHED_AT"] >= started]
        return False, bool(rows)

    def _cancel_exports(self) -> None:
        hook = DataShareDatabricksHook(
            self.databricks_conn_id, timeout_seconds=_DATABRICKS_TIMEOUT_SECONDS, caller="FinishSync"
        )
        for run_id in cancel_exports_of(hook, Variable.get(self.share.export_job_variable), self.sync.key):
            self.log.info("Cancelled the Databricks run %s, which nobody follows", run_id)


def _published_nothing(answer: Mapping[str, Any]) -> bool:
    """Return whether an answer of ``publish`` is that of a dry run, of a verification, or of nothing new."""
    return any(answer.get(name) for name in ("dry_run", "verified", "unchanged"))


def _is_about(answer: Mapping[str, Any], export: Mapping[str, Any]) -> bool:
    """Return whether an answer of ``publish`` is about an export; one that names none, about that of its time."""
    key = "export_path" if "export_path" in answer else CLEAR_NUMBER_KEY
    return bool(answer.get(key) == export.get(key))


def wait_for_killed_steps(context: Context, steps: Sequence[str], states: Mapping[str, str | None]) -> bool:
    """
    Wait for the processes of steps that a person ended; return whether it had to wait.

    When a person ends a run, Airflow starts its last task at once, but ends a running step only at the step's next
    heartbeat. Until then the step goes on: it may create a staging table or start an export after this clean-up.

    :param context: context of the last task
    :param steps: ids of tasks of the same run
    :param states: states of these tasks
    """
    ti, dag_run = context["ti"], context["dag_run"]
    deadline = time.monotonic() + conf.getint("workers", "min_heartbeat_interval") + _MAX_KILL_SECONDS
    # wait_for_export runs in the triggerer: it has no process to wait for.
    alive = [step for step in steps if states.get(step) == "failed" and step != WAIT_FOR_EXPORT.id]
    waited = False
    while True:
        # A step that ends pushes a failure or a result. XComs from before the run was last cleared prove nothing.
        alive = [
            step
            for step in alive
            if not made_since_clear(ti.xcom_pull(task_ids=step, key=FAILURE_KEY), dag_run)
            and not made_since_clear(ti.xcom_pull(task_ids=step), dag_run)
        ]
        if not alive or time.monotonic() > deadline:
            return waited
        waited = True
        time.sleep(_KILLED_POLL_SECONDS)
