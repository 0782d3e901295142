"""
What went wrong: one report for each failed step, the same for people and for programs.

It is the XCom ``failure`` of the task that failed, and of the last task of a sync that was not published; it is in the
log, in the alert and in a backend's answer. This module alone makes it.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import requests
from airflow.providers.databricks.exceptions import DatabricksApiError
from airflow.sdk import Context, RetryDecision, RetryPolicy
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowRuntimeError,
    AirflowTaskTimeout,
    ErrorType,
    TaskDeferralTimeout,
)
from tenacity import RetryError

from data_share.attempts import is_of_this_time, made_by
from data_share.failure_codes import FailureCode
from data_share.steps import FINISH_SYNC

FAILURE_KEY = "failure"
"""XCom key of the report."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """
    The report of a failed step.

    :param step: the task that failed
    :param code: what went wrong
    :param message: what happened, in the other system's words
    :param databricks_run_url: page of the export on Databricks, if it is known
    :param snowflake_query_id: the query in Snowflake's history, if there is one
    :param what_to_do: what helps in this case; by default, what the code says
    :param retriable: whether to start again with nothing changed may help; by default, what the code says
    """

    step: str
    code: FailureCode
    message: str
    databricks_run_url: str | None = None
    snowflake_query_id: str | None = None
    what_to_do: str | None = None
    retriable: bool | None = None

    def __post_init__(self) -> None:
        """Take from the code what this case does not say."""
        if self.what_to_do is None:
            object.__setattr__(self, "what_to_do", self.code.what_to_do)
        if self.retriable is None:
            object.__setattr__(self, "retriable", self.code.retriable)

    def __str__(self) -> str:
        """Return the report for people."""
        return f"{self.step}: {with_advice(self.message, str(self.what_to_do))}"

    def to_xcom(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {**asdict(self), "code": self.code.name}

    @staticmethod
    def of_xcom(report: Mapping[str, Any]) -> Failure:
        """Return the report that a step left as its XCom."""
        return Failure(
            step=report["step"],
            code=FailureCode[report["code"]],
            message=report["message"],
            databricks_run_url=report["databricks_run_url"],
            snowflake_query_id=report["snowflake_query_id"],
            what_to_do=report["what_to_do"],
            retriable=report["retriable"],
        )


class ShareError(Exception):
    """
    An error of this package: it knows its code, and its text ends with what to do.

    :param message: what happened, in the other system's words
    :param code: if it is another one than that of the class
    :param databricks_run_url: page of the export on Databricks
    :param snowflake_query_id: the query in Snowflake's history
    :param what_to_do: what helps in this case, where that of the code would not; whole sentences
    :param retriable: whether to start again with nothing changed may help, where the code says otherwise
    """

    code = FailureCode.UNEXPECTED

    def __init__(
        self,
        message: str,
        *,
        code: FailureCode | None = None,
        databricks_run_url: str | None = None,
        snowflake_query_id: str | None = None,
        what_to_do: str | None = None,
        retriable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.code
        self.what_to_do = what_to_do or self.code.what_to_do
        self.retriable = self.code.retriable if retriable is None else retriable
        self.databricks_run_url = databricks_run_url
        self.snowflake_query_id = snowflake_query_id

    @property
    def message(self) -> str:
        """What happened, without what to do."""
        return str(self.args[0])

    def __str__(self) -> str:
        return with_advice(self.message, self.what_to_do)


def with_advice(message: str, what_to_do: str) -> str:
    """Return a failure as a text for people: what happened, which may be a list, and what to do."""
    return message + ("\n" if "\n" in message else " ") + what_to_do


class NotPublishedError(AirflowFailException):
    """The sync ended without a publish, for the reason that the report gives."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


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


def logged(failure: Failure) -> dict[str, Any]:
    """Write a report to the log, and return it as an XCom."""
    report = failure.to_xcom()
    _log.error("Failure report: %s", json.dumps(report))
    return report


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
