"""Finds why a sync was not published, from the reports and the states of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_share.attempts import made_since_clear
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import FAILURE_KEY, Failure
from data_share.steps import FINISH_SYNC


def reports_of(
    ti: Any, dag_run: Any, steps: Sequence[str], export: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """
    Return the reports that the steps of a run have made since it was last cleared, by step.

    :param export: the XCom of ``export_to_s3``, if there is one. A trigger does not see how often the run was cleared;
        so the report of ``wait_for_export`` names its Databricks run instead, which must be that of the export.
    """
    reports = {step: ti.xcom_pull(task_ids=step, key=FAILURE_KEY) for step in steps}
    databricks_run = str(export["run_id"] if export else None)
    return {
        step: report
        for step, report in reports.items()
        if made_since_clear(report, dag_run) or (report and report.get("run_id") == databricks_run)
    }


def failure_of_sync(
    steps: Sequence[str],
    states: Mapping[str, str | None],
    reports: Mapping[str, dict[str, Any]],
    later_reports: Mapping[str, dict[str, Any]],
    *,
    in_ledger: bool | None = False,
) -> Failure:
    """
    Return why a sync ended without an answer of ``publish``.

    :param steps: the tasks in order; the last one publishes
    :param states: their states
    :param reports: their reports when ``finish_sync`` began. A step that failed by itself has written its report by
        then; a step that a person ended is still running.
    :param later_reports: their reports after all of them have ended
    :param in_ledger: whether the ledger has the sync, so that it was published nevertheless; None if not known
    """
    # Check the state too: a step in the triggerer keeps the report of an earlier attempt, even if it succeeds later.
    failed = [step for step in steps if step in reports and states.get(step) == "failed"]
    # When a person ends a run, Airflow marks the waiting steps as skipped; when a step fails by itself, it does not.
    first = _first_that_did_not_succeed(steps, states)
    is_cancelled = any(states.get(step) == "skipped" for step in steps[steps.index(first) :])
    effect = "It was not published; the target is as it was."
    if in_ledger is None:
        effect = "Snowflake did not answer whether it was published: look into the ledger."
    if in_ledger:
        code = FailureCode.ENDED_AFTER_PUBLISH
        return Failure(steps[-1], code, code.cause)
    if failed and not is_cancelled:
        return Failure.from_xcom(reports[failed[0]])
    if states.get(first) == "success":
        # No step failed: a person marked the last one as a success.
        return Failure(first, FailureCode.RESULT_MISSING, f"The step {first} has published nothing this time. {effect}")
    is_cancelled = is_cancelled or first in later_reports
    code = FailureCode.CANCELLED if is_cancelled else FailureCode.STEP_DIED
    return Failure(first, code, f"{code.cause} {effect}")


def failure_without_report(reason: str) -> Failure:
    """
    Return a report for a sync whose last task left none.

    :param reason: why Airflow ended the run: the ``reason`` in the context of a DAG's callback
    """
    if reason == "timed_out":
        message = "The sync exceeded its max. time (dagrun_timeout), and Airflow ended it."
        return Failure("sync", FailureCode.TIMED_OUT, f"{message} The ledger shows whether it was published.")
    return Failure(FINISH_SYNC.id, FailureCode.STEP_DIED, FailureCode.STEP_DIED.cause)


def _first_that_did_not_succeed(steps: Sequence[str], states: Mapping[str, str | None]) -> str:
    failed = [step for step in steps if states.get(step) == "failed"]
    # A skipped step does not count: with reload_run_key, the first steps are always skipped.
    begun = [step for step in steps if states.get(step) not in ("success", "skipped", None)]
    waiting = [step for step in steps if states.get(step) != "success"]
    return (failed or begun or waiting or steps[-1:])[0]
