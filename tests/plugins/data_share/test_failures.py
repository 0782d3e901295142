"""What is tried again, and where the reason of a failure is left."""

from __future__ import annotations

from unittest import mock

import pytest
from airflow.providers.databricks.exceptions import DatabricksApiError
from airflow.sdk import RetryDecision
from airflow.sdk.exceptions import AirflowException

from data_share.failures import RetryTransientErrors, report_failure


def decision(error: BaseException) -> RetryDecision:
    return RetryTransientErrors().evaluate(error, try_number=1, max_tries=3)


@pytest.mark.parametrize("code", [400, 401, 403, 404])
def test_a_refused_request_is_not_tried_again(code: int) -> None:
    assert decision(DatabricksApiError("no", http_status_code=code)) == RetryDecision.fail(
        reason=f"Databricks refuses the request ({code})"
    )


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


def reported(context: dict[str, object]) -> mock.Mock:
    ti = mock.Mock(spec_set=["xcom_push"])
    report_failure({"ti": ti, **context})  # type: ignore[typeddict-item]
    return ti.xcom_push


def test_the_reason_of_a_failure_is_left_as_xcom() -> None:
    push = reported({"exception": ValueError("The stage is not there.")})
    push.assert_called_once_with(key="failure", value="The stage is not there.")


def test_in_the_dag_processor_which_answers_no_xcom_nothing_is_pushed() -> None:
    push = reported({})
    push.assert_not_called()
