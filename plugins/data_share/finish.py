"""The last step of a sync: it tidies up on both sides, and says how the sync ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

from airflow.configuration import conf
from airflow.sdk import Context, Variable

from data_share.dag_defaults import START_DATE
from data_share.databricks_hook import DataShareDatabricksHook
from data_share.databricks_run import cancel_exports_of
from data_share.failures import FAILURE_KEY, NotPublishedError, failure_of_sync, reports_of
from data_share.share import EXPORT_JOB_VARIABLE, run_key_of
from data_share.snowflake_operators import SnowflakeStatementsOperator
from data_share.templates import find_export

_DATABRICKS_TIMEOUT_SECONDS = 30
_WAIT_FOR_EXPORT = "wait_for_export"
# Airflow sends SIGTERM, and after five seconds SIGKILL.
_KILLED_WITHIN_SECONDS = 7
_KILLED_POLL_SECONDS = 0.2


class FinishSyncOperator(SnowflakeStatementsOperator):
    """
    Tidies up on both sides, and fails when the sync was not published, with the reason that another step left.

    It drops the staging tables, and cancels an export that nobody follows: its starter was killed before it knew the
    run, or the sync was ended before the triggerer took the run up. No trigger's ``on_kill`` is called then.

    The state of a run is that of its last tasks, and when a person sets a run to failed, Airflow (3.3) skips the tasks
    that wait: with a teardown that succeeds, a cancelled sync would end as a success.

    A publish that was killed, or that waited for another attempt, may have committed before: then the ledger knows, and
    the report says so.

    :param sql: file that drops the staging tables
    :param select_ledger_row: file that selects a sync's ledger row; its one ``?`` is the run key; a template
    :param steps: tasks that may have failed, in their order; the last one publishes
    :param databricks_conn_id: Airflow connection of the workspace
    """

    template_fields: Sequence[str] = (
        *SnowflakeStatementsOperator.template_fields,
        "select_ledger_row",
        "databricks_conn_id",
    )

    def __init__(
        self,
        *,
        sql: str,
        select_ledger_row: str,
        steps: Sequence[str],
        databricks_conn_id: str = "databricks_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(sql=sql, **kwargs)
        self.select_ledger_row = select_ledger_row
        self.steps = steps
        self.databricks_conn_id = databricks_conn_id

    def execute(self, context: Context) -> None:
        """Tidy up, then say how the sync ended."""
        ti = context["ti"]
        reports = reports_of(ti, self.steps)
        # At once: a publish that has not begun yet fails without its staging tables.
        self._drop_staging(context, "at once")
        states: Mapping[str, str] = {}
        try:
            states, waited = wait_for_killed_steps(ti, self.steps)
            if waited:
                self._drop_staging(context, "after the steps")
        except Exception:
            self.log.exception("It is not known whether a step of this run is still working")
        # An export that ended well is known to have ended, and a sync that loads an earlier one has none.
        if states.get(_WAIT_FOR_EXPORT) != "success" and not context["params"].get("reload_run_key"):
            try:
                self._cancel_exports(run_key_of(context["dag_run"]))
            except Exception:
                self.log.exception("An export of this run may still be running on Databricks")
        publish = states.get(self.steps[-1])
        # A sync that was published, then cleared, and ended before its publish, still has the result of the first time.
        if publish in ("skipped", "upstream_failed") or ti.xcom_pull(task_ids=self.steps[-1]) is None:
            # Skipped by a person, it may have been between two attempts, of which the first has committed.
            in_ledger = False if publish == "upstream_failed" else self._is_in_ledger(context)
            raise NotPublishedError(failure_of_sync(ti, self.steps, states, reports, in_ledger=in_ledger))

    def _is_in_ledger(self, context: Context) -> bool | None:
        """Return whether this sync's export is published, or None if Snowflake cannot be asked."""
        export = find_export(context["ti"])
        if not export:
            return False
        try:
            rows = self._run_file(self.select_ledger_row, "ledger", bindings=[run_key_of(context["dag_run"])])[-1].rows
        except Exception:
            self.log.exception("It is not known whether this sync was published")
            return None
        # Clearing a run that had ended starts it anew: what it published before is another time's.
        started = (context["dag_run"].start_date or START_DATE).astimezone(UTC).replace(tzinfo=None)
        return any(row["EXPORT_PATH"] == export["export_path"] and row["PUBLISHED_AT"] >= started for row in rows)

    def _drop_staging(self, context: Context, place: str) -> None:
        self._context = context
        try:
            self._run_file(str(self.sql), place)
        except Exception:
            # The sync ended as it did; what is left behind is dropped by clean_up_share.
            self.log.exception("The staging tables of this run are left behind")

    def _cancel_exports(self, run_key: str) -> None:
        hook = DataShareDatabricksHook(
            self.databricks_conn_id, timeout_seconds=_DATABRICKS_TIMEOUT_SECONDS, caller="FinishSync"
        )
        for run_id in cancel_exports_of(hook, Variable.get(EXPORT_JOB_VARIABLE), run_key):
            self.log.info("Cancelled the Databricks run %s, which nobody follows", run_id)


def wait_for_killed_steps(ti: Any, steps: Sequence[str]) -> tuple[dict[str, str], bool]:
    """
    Wait for the processes of steps that a person ended; return the states of all steps, and whether it had to wait.

    Airflow starts the last task of a run at once, and ends a running step at its next heartbeat only. Until then, that
    one goes on: it may make a staging table that was just dropped, or start the export that was just looked for.

    :param ti: task instance of the last task
    :param steps: tasks of the same run
    """
    deadline = time.monotonic() + conf.getint("workers", "min_heartbeat_interval") + _KILLED_WITHIN_SECONDS
    waited = False
    while True:
        found = ti.get_task_states(dag_id=ti.dag_id, task_ids=list(steps), run_ids=[ti.run_id])
        states: dict[str, str] = found.get(ti.run_id, {})
        alive = [
            step
            for step in steps
            # That one has no process. The others leave a reason or a result when they come to their end.
            if states.get(step) == "failed"
            and step != _WAIT_FOR_EXPORT
            and ti.xcom_pull(task_ids=step, key=FAILURE_KEY) is None
            and ti.xcom_pull(task_ids=step) is None
        ]
        if not alive or time.monotonic() > deadline:
            return states, waited
        waited = True
        time.sleep(_KILLED_POLL_SECONDS)
