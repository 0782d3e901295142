"""The last step of a sync: it tidies up on both sides, and says how the sync ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from typing import Any

from airflow.configuration import conf
from airflow.sdk import Context, Variable

from data_share.attempts import made_since_clear
from data_share.dag_defaults import START_DATE
from data_share.databricks.follow import cancel_exports_of
from data_share.databricks.hook import DataShareDatabricksHook
from data_share.outcome.diagnose import failure_of_sync, reports_of
from data_share.outcome.report import FAILURE_KEY, NotPublishedError
from data_share.snowflake.statements import SnowflakeSyncOperator
from data_share.steps import BEFORE_FINISH, EXPORT_TO_S3, PUBLISH, WAIT_FOR_EXPORT

_DATABRICKS_TIMEOUT_SECONDS = 30
# Airflow sends SIGTERM, and after five seconds SIGKILL.
_KILLED_WITHIN_SECONDS = 7
_KILLED_POLL_SECONDS = 0.2


class FinishSyncOperator(SnowflakeSyncOperator):
    """
    Tidies up on both sides, and fails when the sync was not published, with the reason that another step left.

    It drops the staging tables, and cancels an export that nobody follows: its starter was killed before it knew the
    run, or the sync was ended before the triggerer took the run up, or a person marked the step that waits for it. No
    trigger's ``on_kill`` is called then.

    The state of a run is that of its last tasks, and when a person sets a run to failed, Airflow (3.3) skips the tasks
    that wait: with a teardown that succeeds, a cancelled sync would end as a success.

    A sync is published when its publish is a success, and gave its answer since the run was last cleared. An answer
    that is older, or of a publish that a person ended, counts when it is about this sync's export and the ledger has
    that. A publish that was killed, or that waited for another attempt, may have committed without an answer: then the
    ledger knows, and the report says so.

    """

    template_fields: Sequence[str] = (*SnowflakeSyncOperator.template_fields, "databricks_conn_id")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.databricks_conn_id = self.share.databricks_conn_id

    def execute(self, context: Context) -> None:
        """Tidy up, then say how the sync ended."""
        ti, dag_run = context["ti"], context["dag_run"]
        # Not without the states: when they cannot be asked for, this step is tried again.
        states = states_of(ti, BEFORE_FINISH)
        answer = ti.xcom_pull(task_ids=PUBLISH.id)
        if states.get(PUBLISH.id) == "success" and made_since_clear(answer, dag_run):
            self._drop_staging(context, "at once")
            return
        started = ti.xcom_pull(task_ids=EXPORT_TO_S3.id, key="export")
        reports = reports_of(ti, dag_run, BEFORE_FINISH, started)
        # At once: a step that has not begun yet fails without its staging tables.
        self._drop_staging(context, "at once")
        if wait_for_killed_steps(context, BEFORE_FINISH, states):
            self._drop_staging(context, "after the steps")
            answer = ti.xcom_pull(task_ids=PUBLISH.id)
        # A sync that loads an earlier export has none.
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
        Return whether this sync has the answer of a publish, and whether its export is published without one.

        The second is None if Snowflake cannot be asked.
        """
        dag_run = context["dag_run"]
        # An export step that did not end well has left the export of an earlier attempt, if any.
        has_export = self.sync.is_reload or states.get(EXPORT_TO_S3.id) == "success"
        export = self.sync.found_export if has_export else None
        is_success = states.get(PUBLISH.id) == "success"
        is_answer = made_since_clear(answer, dag_run) or (
            is_success and answer and export and answer.get("export_path") == export["export_path"]
        )
        if is_answer and answer.get("dry_run"):
            return is_success, False
        # An append that is done again answers with the export that it has counted.
        path = answer["export_path"] if is_answer else export and export["export_path"]
        if path is None:
            return False, False
        try:
            rows = self._run("select_ledger_row", bindings=[self.sync.key])[-1].rows
        except Exception:
            self.log.exception("It is not known whether this sync was published")
            return False, None
        rows = [row for row in rows if row["EXPORT_PATH"] == path]
        if is_answer and rows:
            return True, True
        if not made_since_clear(export, dag_run):
            # What a run published before it was cleared, which starts it anew, is another time's.
            started = (dag_run.start_date or START_DATE).astimezone(UTC).replace(tzinfo=None)
            rows = [row for row in rows if row["PUBLISHED_AT"] >= started]
        return False, bool(rows)

    def _drop_staging(self, context: Context, place: str) -> None:
        self._context = context
        try:
            rows = self._run("show_staging_tables_of_run", f"list {place}")[-1].rows
            listed = [str(row["name"]) for row in rows]
            target, key = self.dataset.target_table, self.sync.key
            self._drop_staging_tables(
                [name for name in listed if self.share.is_staging_of_run(name, target, key)], place
            )
        except Exception:
            # The sync ended as it did; what is left behind is dropped by clean_up_share.
            self.log.exception("The staging tables of this run are left behind")

    def _cancel_exports(self) -> None:
        hook = DataShareDatabricksHook(
            self.databricks_conn_id, timeout_seconds=_DATABRICKS_TIMEOUT_SECONDS, caller="FinishSync"
        )
        for run_id in cancel_exports_of(hook, Variable.get(self.share.export_job_variable), self.sync.key):
            self.log.info("Cancelled the Databricks run %s, which nobody follows", run_id)


def states_of(ti: Any, steps: Sequence[str]) -> dict[str, str | None]:
    """
    Return the states of tasks.

    :param ti: task instance of the same run
    :param steps: the tasks
    """
    found: dict[str, str | None] = ti.get_task_states(dag_id=ti.dag_id, task_ids=list(steps), run_ids=[ti.run_id]).get(
        ti.run_id, {}
    )
    return found


def wait_for_killed_steps(context: Context, steps: Sequence[str], states: Mapping[str, str | None]) -> bool:
    """
    Wait for the processes of steps that a person ended; return whether it had to wait.

    Airflow starts the last task of a run at once, and ends a running step at its next heartbeat only. Until then, that
    one goes on: it may make a staging table that was just dropped, or start the export that was just looked for.

    :param context: of the last task
    :param steps: tasks of the same run
    :param states: their states
    """
    ti, dag_run = context["ti"], context["dag_run"]
    deadline = time.monotonic() + conf.getint("workers", "min_heartbeat_interval") + _KILLED_WITHIN_SECONDS
    # The step that waits for the export has no process.
    alive = [step for step in steps if states.get(step) == "failed" and step != WAIT_FOR_EXPORT.id]
    waited = False
    while True:
        # A step leaves a reason or a result when it comes to its end; what an earlier attempt has left is no end.
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
