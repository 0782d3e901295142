"""What an error means: its code, its report, and whether another attempt can help."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import requests
from airflow.providers.databricks.exceptions import DatabricksApiError
from airflow.sdk import Context, RetryDecision, RetryPolicy
from airflow.sdk.exceptions import (
    AirflowNotFoundException,
    AirflowRuntimeError,
    AirflowTaskTimeout,
    ErrorType,
    TaskDeferralTimeout,
)
from tenacity import RetryError

from data_share.attempts import made_by
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import FAILURE_KEY, Failure, NotPublishedError, ShareError, logged


def failure_of(error: BaseException, step: str) -> Failure:
    """
    Return the report of an error.

    :param error: what ended the step
    :param step: the task
    """
    if isinstance(error, NotPublishedError):
        return error.failure
    if isinstance(error, ShareError):
        return Failure(
            step,
            error.code,
            error.message,
            error.databricks_run_url,
            error.snowflake_query_id,
            error.what_to_do,
            error.retriable,
        )
    if isinstance(error, TaskDeferralTimeout):
        # Airflow's, which comes after ours: the trigger was not there to count.
        told = "The export has not ended in its time (export_timeout_minutes), and no triggerer was there to cancel it."
        advice = "Start the triggerer, and then the sync again."
        return Failure(step, FailureCode.EXPORT_TIMED_OUT, told, what_to_do=advice)
    return Failure(step, _code_of(error), str(error) or type(error).__name__)


def _code_of(error: BaseException) -> FailureCode:
    """Tell the errors of Airflow and of the Databricks provider; those of Snowflake are ours."""
    if isinstance(error, AirflowNotFoundException) or (
        isinstance(error, AirflowRuntimeError)
        and error.error.error in (ErrorType.CONNECTION_NOT_FOUND, ErrorType.VARIABLE_NOT_FOUND)
    ):
        return FailureCode.CONFIGURATION_MISSING
    if isinstance(error, AirflowTaskTimeout):
        return FailureCode.TIMED_OUT
    if is_certificate_error(error):
        return FailureCode.CERTIFICATE_REFUSED
    status = databricks_status(error)
    if status is not None or isinstance(error, DatabricksApiError):
        return code_of_status(status, FailureCode.EXPORT_JOB_REFUSED)
    if isinstance(error, requests.RequestException) or "API requests to Databricks failed" in str(error):
        return FailureCode.DATABRICKS_UNAVAILABLE
    return FailureCode.UNEXPECTED


def databricks_status(error: BaseException) -> int | None:
    """
    Return the HTTP status of Databricks' answer, or None when the error is no answer of it.

    The provider (7.23.0) has a class for the answers to its calls, and none for a refused sign-in of a service
    principal: in a worker that is text, in the triggerer an error of aiohttp. Such an answer is 401 here, whatever its
    status was.
    """
    if isinstance(error, DatabricksApiError):
        return error.http_status_code
    found = re.fullmatch(r"Response: .*, Status Code: (\d{3})", str(error), re.DOTALL)
    status = error.status if isinstance(error, aiohttp.ClientResponseError) else int(found[1]) if found else None
    return 401 if _is_refusal(status) else status


def _is_refusal(status: int | None) -> bool:
    return status is not None and 400 <= status < 500 and status != 429


def is_certificate_error(error: BaseException) -> bool:
    """
    Return whether a call has failed because of a certificate: the next call fails in the same way.

    Of a connection that is lost while TLS is set up, requests makes the same kind of error.
    """
    return any(
        isinstance(each, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError)
        # The file of certificate authorities that the environment names is not there.
        or (type(each) is OSError and "TLS CA certificate bundle" in str(each))
        for each in _with_causes(error)
    )


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that it was made of: libraries put them in different places."""
    seen: set[int] = set()
    left: list[Any] = [error]
    while left:
        each = left.pop()
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        left += [each.__cause__, each.__context__, *each.args, getattr(each, "reason", None)]
        if isinstance(each, RetryError):
            left.append(each.last_attempt.exception())


def seconds_to_wait(retry_after: str | None) -> float:
    """
    Return the seconds that an answer asks to wait before the next call; 0 when it does not say, or nothing readable.

    :param retry_after: its header ``Retry-After``: a number of seconds, or the time of day
    """
    said = (retry_after or "").strip()
    if re.fullmatch(r"\d{1,9}", said, re.ASCII):
        return float(said)
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def code_of_status(status: int | None, refused: FailureCode) -> FailureCode:
    """
    Return what an answer of Databricks means.

    :param status: HTTP status, or None when there was no answer
    :param refused: the code of a request that Databricks finds wrong
    """
    if status in (401, 403):
        return FailureCode.DATABRICKS_SIGN_IN
    if status is None or status == 429 or status >= 500:
        return FailureCode.DATABRICKS_UNAVAILABLE
    return refused


def report_failure(context: Context) -> None:
    """
    Leave the report of a failed task as its XCom and in its log: the failure callback of every task.

    For a task that fails in the triggerer, or whose process has died, Airflow calls this in the dag-processor, without
    the error. There, pushing an XCom would block the parsing of the DAG file until its time-out: the trigger has left
    the report itself, and of a process that died there is nothing to tell.
    """
    error = context.get("exception")
    if isinstance(error, BaseException):
        report = logged(failure_of(error, context["ti"].task_id))
        context["ti"].xcom_push(key=FAILURE_KEY, value=made_by(context, report))


class RetryTransientErrors(RetryPolicy):
    """
    Fails at once where another attempt cannot help: a certificate, or a request that Databricks refuses (4xx but 429).

    The provider (7.23.0) raises both as ordinary errors, which Airflow would retry.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Decide on one failure; see :class:`airflow.sdk.RetryPolicy`."""
        if is_certificate_error(exception):
            return RetryDecision.fail(reason="A certificate is refused")
        status = databricks_status(exception)
        if _is_refusal(status):
            return RetryDecision.fail(reason=f"Databricks refuses the request ({status})")
        return RetryDecision.default()
