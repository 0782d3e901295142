from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
import requests
from airflow.providers.databricks.exceptions import DatabricksApiError
from airflow.sdk import RetryDecision
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowNotFoundException,
    AirflowRuntimeError,
    AirflowTaskTimeout,
    ErrorType,
    TaskDeferralTimeout,
)
from airflow.sdk.execution_time.comms import ErrorResponse
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from data_share.outcome.classify import RetryTransientErrors, failure_of, report_failure
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import Failure
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
