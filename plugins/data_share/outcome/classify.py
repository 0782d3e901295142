"""Classifies errors: the code and the report of an error, and whether another attempt can help."""

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

    :param error: the error that ended the step
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
        # Airflow's own timeout is later than the trigger's: it applies only when no triggerer ran the trigger.
        message = "The export exceeded its max. time (export_timeout_minutes), and no triggerer ran that cancels it."
        advice = "Start the triggerer, and then the sync again."
        return Failure(step, FailureCode.EXPORT_TIMED_OUT, message, what_to_do=advice)
    return Failure(step, _code_of(error), str(error) or type(error).__name__)


def _code_of(error: BaseException) -> FailureCode:
    """Return the code of an error of Airflow or of the Databricks provider. Errors of Snowflake are a ShareError."""
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
    Return the HTTP status of Databricks' answer, or None if the error is no answer of Databricks.

    The provider (7.23.0) has an error class for answers to its calls, but not for a refused sign-in of a service
    principal: in a worker that is only a text, in the triggerer an error of aiohttp. For such a refusal this returns
    401, whatever its status was.
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
    Return whether a call failed because of a certificate, so that a repeated call would fail too.

    The class of the error is not enough: requests raises the same class when a connection is lost during the TLS
    handshake.
    """
    return any(
        isinstance(each, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError)
        # The environment names a file of certificate authorities that does not exist.
        or (type(each) is OSError and "TLS CA certificate bundle" in str(each))
        for each in _with_causes(error)
    )


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors that caused it; libraries store causes in different attributes."""
    seen: set[int] = set()
    pending: list[Any] = [error]
    while pending:
        each = pending.pop()
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending += [each.__cause__, each.__context__, *each.args, getattr(each, "reason", None)]
        if isinstance(each, RetryError):
            pending.append(each.last_attempt.exception())


def seconds_to_wait(retry_after: str | None) -> float:
    """
    Return the seconds to wait before the next call, as an answer demands; 0 if the header is missing or unreadable.

    :param retry_after: the header ``Retry-After``: a number of seconds, or a date
    """
    value = (retry_after or "").strip()
    if re.fullmatch(r"\d{1,9}", value, re.ASCII):
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def code_of_status(status: int | None, refused: FailureCode) -> FailureCode:
    """
    Return the code for an answer of Databricks.

    :param status: HTTP status, or None if there was no answer
    :param refused: the code for a request that Databricks rejects as wrong
    """
    if status in (401, 403):
        return FailureCode.DATABRICKS_SIGN_IN
    if status is None or status == 429 or status >= 500:
        return FailureCode.DATABRICKS_UNAVAILABLE
    return refused


def report_failure(context: Context) -> None:
    """
    Write the report of a failed task to its XCom and its log: the failure callback of every task.

    When a task fails in the triggerer, or its process died, Airflow calls this in the dag-processor, without the error.
    This does nothing then: pushing an XCom there would block the parsing of the DAG file until its time-out. The
    trigger has written the report itself, and nothing is known about a process that died.
    """
    error = context.get("exception")
    if isinstance(error, BaseException):
        report = logged(failure_of(error, context["ti"].task_id))
        context["ti"].xcom_push(key=FAILURE_KEY, value=made_by(context, report))


class RetryTransientErrors(RetryPolicy):
    """
    Fails at once if a certificate is refused, or Databricks refuses the request (4xx, not 429): retries cannot help.

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
