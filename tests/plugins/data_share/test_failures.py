"""What is tried again, and the report of a failure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import requests
from airflow.providers.databricks.exceptions import DatabricksApiError
from airflow.sdk import RetryDecision
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowRuntimeError,
    AirflowTaskTimeout,
    ErrorType,
    TaskDeferralTimeout,
)
from airflow.sdk.execution_time.comms import ErrorResponse
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from data_share.failure_codes import FailureCode
from data_share.failures import (
    Failure,
    NotPublishedError,
    RetryTransientErrors,
    ShareError,
    failure_of,
    failure_of_sync,
    report_failure,
    reports_of,
)
from tests.airflow_double import DagRun, TaskInstance

# As the provider tells of a service principal's secret that has expired.
SIGN_IN_IN_A_WORKER = AirflowException('Response: {"error":"invalid_client"}, Status Code: 401')


def sign_in_in_the_triggerer(status: int) -> aiohttp.ClientResponseError:
    address = URL("https://databricks.example/oidc/v1/token")
    return aiohttp.ClientResponseError(
        aiohttp.RequestInfo(address, "POST", CIMultiDictProxy(CIMultiDict())), (), status=status
    )


def decision(error: BaseException) -> RetryDecision:
    return RetryTransientErrors().evaluate(error, try_number=1, max_tries=3)


@pytest.mark.parametrize("code", [400, 401, 403, 404])
def test_a_refused_request_is_not_tried_again(code: int) -> None:
    assert decision(DatabricksApiError("no", http_status_code=code)) == RetryDecision.fail(
        reason=f"Databricks refuses the request ({code})"
    )


def test_a_refused_sign_in_is_not_tried_again() -> None:
    assert decision(SIGN_IN_IN_A_WORKER) == RetryDecision.fail(reason="Databricks refuses the request (401)")


@pytest.mark.parametrize(
    "error",
    [
        DatabricksApiError("too many", http_status_code=429),
        DatabricksApiError("broken", http_status_code=500),
        DatabricksApiError("away", http_status_code=503),
        DatabricksApiError("no code"),
        AirflowException("other"),
        ConnectionError("lost"),
    ],
    ids=str,
)
def test_everything_else_is_tried_again_as_the_task_says(error: Exception) -> None:
    assert decision(error) == RetryDecision.default()


# ---- the report of a step


def runtime_error(kind: ErrorType) -> AirflowRuntimeError:
    return AirflowRuntimeError(ErrorResponse(error=kind))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DatabricksApiError("no such job", http_status_code=400), "EXPORT_JOB_REFUSED"),
        (DatabricksApiError("who?", http_status_code=401), "DATABRICKS_SIGN_IN"),
        (DatabricksApiError("not you", http_status_code=403), "DATABRICKS_SIGN_IN"),
        (DatabricksApiError("too many", http_status_code=429), "DATABRICKS_UNAVAILABLE"),
        (DatabricksApiError("away", http_status_code=503), "DATABRICKS_UNAVAILABLE"),
        (AirflowException("API requests to Databricks failed 3 times. Giving up."), "DATABRICKS_UNAVAILABLE"),
        (requests.ConnectionError("lost"), "DATABRICKS_UNAVAILABLE"),
        (AirflowNotFoundException("The conn_id `databricks_default` isn't defined"), "CONFIGURATION_MISSING"),
        (runtime_error(ErrorType.VARIABLE_NOT_FOUND), "CONFIGURATION_MISSING"),
        (runtime_error(ErrorType.GENERIC_ERROR), "UNEXPECTED"),
        (SIGN_IN_IN_A_WORKER, "DATABRICKS_SIGN_IN"),
        (sign_in_in_the_triggerer(401), "DATABRICKS_SIGN_IN"),
        (sign_in_in_the_triggerer(400), "DATABRICKS_SIGN_IN"),
        (sign_in_in_the_triggerer(503), "DATABRICKS_UNAVAILABLE"),
        (AirflowTaskTimeout("Timeout, PID: 1"), "TIMED_OUT"),
        (TaskDeferralTimeout("Trigger timeout"), "EXPORT_TIMED_OUT"),
        (ZeroDivisionError(), "UNEXPECTED"),
    ],
    ids=str,
)
def test_errors_of_airflow_and_its_providers_have_a_code(error: BaseException, code: str) -> None:
    failure = failure_of(error, "export_to_s3")
    assert failure.code.name == code
    assert failure.step == "export_to_s3"
    assert failure.message


class HarbourClosedError(ShareError, AirflowFailException):
    code = FailureCode.EXPORT_FAILED


def test_our_errors_say_what_happened_and_then_what_to_do() -> None:
    error = HarbourClosedError(
        "The harbour is closed.", databricks_run_url="https://d/run/7", snowflake_query_id="01b2"
    )
    assert str(error) == f"The harbour is closed. {FailureCode.EXPORT_FAILED.what_to_do}"
    assert failure_of(error, "wait_for_export").to_xcom() == {
        "step": "wait_for_export",
        "code": "EXPORT_FAILED",
        "message": "The harbour is closed.",
        "what_to_do": FailureCode.EXPORT_FAILED.what_to_do,
        "databricks_run_url": "https://d/run/7",
        "snowflake_query_id": "01b2",
        "retriable": False,
    }


def test_an_error_may_have_another_code_than_its_class() -> None:
    error = HarbourClosedError("Too late.", code=FailureCode.EXPORT_TIMED_OUT)
    assert failure_of(error, "x").code is FailureCode.EXPORT_TIMED_OUT
    assert HarbourClosedError("Closed.").code is FailureCode.EXPORT_FAILED


def test_an_error_may_have_advice_for_its_case() -> None:
    error = HarbourClosedError("The harbour is closed.", what_to_do="Row around it.", retriable=True)
    assert str(error) == "The harbour is closed. Row around it."
    failure = failure_of(error, "wait_for_export")
    report = failure.to_xcom()
    assert (report["code"], report["what_to_do"], report["retriable"]) == ("EXPORT_FAILED", "Row around it.", True)
    assert str(NotPublishedError(failure)) == "wait_for_export: The harbour is closed. Row around it."


def test_a_report_survives_its_way_as_xcom() -> None:
    advice = {"what_to_do": "Row back.", "retriable": False}
    failure = Failure("publish", FailureCode.SUPERSEDED, "Too late.", snowflake_query_id="01b2", **advice)
    assert Failure.of_xcom(json.loads(json.dumps(failure.to_xcom()))) == failure


def test_each_code_has_a_cause_and_a_remedy_of_its_own() -> None:
    for texts in ([code.cause for code in FailureCode], [code.what_to_do for code in FailureCode]):
        assert all(text.endswith(".") for text in texts)
    assert len({code.cause for code in FailureCode}) == len(FailureCode)


# ---- where it is left


def reported(context: dict[str, object]) -> dict[tuple[str, str], Any]:
    run = DagRun(dag_id="set_up_snowflake", clear_number=2)
    ti = TaskInstance(run, "create_stage")
    report_failure({"ti": ti, "dag_run": run, **context})  # type: ignore[typeddict-item]
    for left in run.xcoms.values():
        assert left.pop("task_instance_id") == str(ti.id)
        assert left.pop("clear_number") == 2
    return run.xcoms


def test_the_report_is_left_as_xcom_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    left = reported({"exception": ValueError("The stage is not there.")})
    report = Failure("create_stage", FailureCode.UNEXPECTED, "The stage is not there.").to_xcom()
    assert left == {("create_stage", "failure"): report}
    assert json.dumps(report) in caplog.text


@pytest.mark.parametrize("context", [{}, {"exception": "killed"}], ids=["no error", "text alone"])
def test_in_the_dag_processor_which_answers_no_xcom_nothing_is_pushed(context: dict[str, object]) -> None:
    assert reported(context) == {}


# ---- the report of a sync

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
