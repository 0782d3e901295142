from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from data_share.outcome.classify import failure_of
from data_share.outcome.codes import FailureCode
from data_share.outcome.diagnose import failure_of_sync, reports_of
from data_share.outcome.report import Failure, NotPublishedError
from tests.airflow_double import DagRun, TaskInstance

STEPS = ["export_to_s3", "wait_for_export", "copy_into_staging", "publish"]
Reports = dict[str, dict[str, Any]]


def ended(states: str, reports: Reports | None = None, later: Reports | None = None) -> Failure:
    """The report of a sync whose steps have ended in these states, and had left these reports; some came later."""
    named = {step: None if state == "None" else state for step, state in zip(STEPS, states.split(), strict=True)}
    reports = reports or {}
    return failure_of_sync(STEPS, named, reports, {**reports, **(later or {})})


LOADED_NOTHING = Failure("copy_into_staging", FailureCode.NOTHING_LOADED, "Nothing.", snowflake_query_id="01b2")


def test_a_sync_failed_as_its_first_step_that_left_a_report_did() -> None:
    reports = {"copy_into_staging": LOADED_NOTHING.to_xcom()}
    assert ended("success success failed upstream_failed", reports) == LOADED_NOTHING


@pytest.mark.parametrize(
    ("states", "step", "code"),
    [
        ("skipped skipped skipped skipped", "export_to_s3", "CANCELLED"),
        ("failed skipped skipped skipped", "export_to_s3", "CANCELLED"),
        ("success failed skipped skipped", "wait_for_export", "CANCELLED"),
        ("success success skipped skipped", "copy_into_staging", "CANCELLED"),
        ("skipped skipped failed skipped", "copy_into_staging", "CANCELLED"),
        ("failed upstream_failed upstream_failed upstream_failed", "export_to_s3", "STEP_DIED"),
        ("skipped skipped failed upstream_failed", "copy_into_staging", "STEP_DIED"),
        ("success success success failed", "publish", "STEP_DIED"),
        # A failed step comes before one that has not begun, or that lost what it waits for.
        ("success None success failed", "publish", "STEP_DIED"),
        ("None None None failed", "publish", "STEP_DIED"),
        ("success upstream_failed failed upstream_failed", "copy_into_staging", "STEP_DIED"),
        ("removed success success failed", "publish", "STEP_DIED"),
        ("None success success success", "export_to_s3", "STEP_DIED"),
        # All are marked as a success.
        ("success success success success", "publish", "RESULT_MISSING"),
    ],
)
def test_without_a_report_the_states_tell(states: str, step: str, code: str) -> None:
    failure = ended(states)
    assert (failure.step, failure.code.name) == (step, code)
    assert "not published" in failure.message


def test_the_report_of_an_earlier_attempt_is_not_the_reason() -> None:
    waited = replace(LOADED_NOTHING, step="wait_for_export").to_xcom()
    failure = ended("success success failed upstream_failed", {"wait_for_export": waited})
    assert (failure.step, failure.code.name) == ("copy_into_staging", "STEP_DIED")


@pytest.mark.parametrize("later", ["skipped", "upstream_failed"])
def test_what_a_step_leaves_that_a_person_ended_is_not_the_reason(later: str) -> None:
    failure = ended(f"success success failed {later}", later={"copy_into_staging": LOADED_NOTHING.to_xcom()})
    assert (failure.step, failure.code.name) == ("copy_into_staging", "CANCELLED")


@pytest.mark.parametrize(
    ("report", "counts"),
    [
        ({"clear_number": 1}, True),
        ({"clear_number": 0}, False),
        ({}, False),
        ({"run_id": "77"}, True),
        ({"run_id": "76"}, False),
        ({"run_id": "None"}, False),
        (None, False),
    ],
    ids=str,
)
def test_only_a_report_of_this_time_counts(report: dict[str, Any] | None, counts: bool) -> None:
    # The one that waits for the export names the run that it is about.
    run = DagRun(dag_id="sync_tides", clear_number=1, xcoms={("copy_into_staging", "failure"): report})
    started = {"run_id": 77}
    found = reports_of(TaskInstance(run, "finish_sync"), run, STEPS, started)
    assert found == ({"copy_into_staging": report} if counts else {})


def test_the_report_of_a_wait_for_nothing_counts_while_nothing_was_started() -> None:
    run = DagRun(dag_id="sync_tides", xcoms={("wait_for_export", "failure"): {"run_id": "None"}})
    assert set(reports_of(TaskInstance(run, "finish_sync"), run, STEPS, None)) == {"wait_for_export"}


def test_the_last_task_tells_what_the_sync_failed_of() -> None:
    failure = Failure("check_staging", FailureCode.CHECKS_FAILED, "1 of 9 checks failed.")
    error = NotPublishedError(failure)
    assert str(error).startswith("check_staging: 1 of 9 checks failed.")
    assert failure_of(error, "finish_sync") is failure
