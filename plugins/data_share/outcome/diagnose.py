"""Why a sync was not published: found from what its steps left behind and from their states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_share.attempts import is_of_this_time
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import FAILURE_KEY, Failure
from data_share.steps import FINISH_SYNC


def reports_of(
    ti: Any, dag_run: Any, steps: Sequence[str], export: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """
    Return the reports that the steps of a run have left since it was last cleared, by step.

    :param export: what the step that exports has left, if it has left anything: that of the step which waits for the
        export, from where nobody sees how often a run was cleared, is about its run
    """
    reports = {step: ti.xcom_pull(task_ids=step, key=FAILURE_KEY) for step in steps}
    about = str(export["run_id"] if export else None)
    return {
        step: report
        for step, report in reports.items()
        if is_of_this_time(report, dag_run) or (report and report.get("run_id") == about)
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
    Return why a sync ended without the answer of its last step.

    :param steps: the tasks in their order; the last one publishes
    :param states: their states
    :param reports: what they had left when the last task began: a step that fails by itself has left its report by
        then, and one that a person ends is still at work
    :param later_reports: what they have left now that all have ended
    :param in_ledger: whether the ledger says that it was published all the same; None if that is not known
    """
    # A step that ends in the triggerer keeps the report of an earlier attempt, also when it succeeds at last.
    failed = [step for step in steps if step in reports and states.get(step) == "failed"]
    # A person who ends a run leaves the steps that wait skipped; a step that fails by itself does not.
    first = _first_that_did_not_succeed(steps, states)
    is_cancelled = any(states.get(step) == "skipped" for step in steps[steps.index(first) :])
    told = "It was not published; the target is as it was."
    if in_ledger is None:
        told = "Whether it was published could not be asked: sync_history says so."
    if in_ledger:
        code = FailureCode.ENDED_AFTER_PUBLISH
        return Failure(steps[-1], code, code.cause)
    if failed and not is_cancelled:
        return Failure.of_xcom(reports[failed[0]])
    if states.get(first) == "success":
        # None has failed: the last one is marked.
        return Failure(first, FailureCode.RESULT_MISSING, f"The step {first} has published nothing this time. {told}")
    is_cancelled = is_cancelled or first in later_reports
    code = FailureCode.CANCELLED if is_cancelled else FailureCode.STEP_DIED
    return Failure(first, code, f"{code.cause} {told}")


def failure_without_report(reason: str) -> Failure:
    """
    Return the report of a sync whose last task left none.

    :param reason: why Airflow ended the run: the ``reason`` in the context of a DAG's callback
    """
    if reason == "timed_out":
        message = "The sync took longer than a sync may (dagrun_timeout), and Airflow ended it."
        return Failure("sync", FailureCode.TIMED_OUT, f"{message} Whether it was published is in sync_history.")
    return Failure(FINISH_SYNC.id, FailureCode.STEP_DIED, FailureCode.STEP_DIED.cause)


def _first_that_did_not_succeed(steps: Sequence[str], states: Mapping[str, str | None]) -> str:
    failed = [step for step in steps if states.get(step) == "failed"]
    # The first steps are skipped too when an earlier export is loaded again.
    begun = [step for step in steps if states.get(step) not in ("success", "skipped", None)]
    waiting = [step for step in steps if states.get(step) != "success"]
    return (failed or begun or waiting or steps[-1:])[0]
