"""What went wrong, where a person or a backend can read it: the XCom ``failure`` of the task that failed."""

from __future__ import annotations

from airflow.providers.databricks.exceptions import DatabricksApiError
from airflow.sdk import Context, RetryDecision, RetryPolicy

FAILURE_KEY = "failure"
"""XCom key of the sentence that says why a task failed."""


def report_failure(context: Context) -> None:
    """
    Leave the reason of a failed task as its XCom: the failure callback of every task.

    For a task that fails in the triggerer, or whose process has died, Airflow calls this in the dag-processor, without
    the error. There, pushing an XCom would block the parsing of the DAG file until its time-out: the trigger has left
    the reason itself, and of a process that died there is nothing to tell.
    """
    error = context.get("exception")
    if error is not None:
        context["ti"].xcom_push(key=FAILURE_KEY, value=str(error))


class RetryTransientErrors(RetryPolicy):
    """
    Fails at once where another attempt cannot help: a request that Databricks refuses (4xx, but for 429).

    The provider (7.23.0) raises such an answer as an ordinary error, which Airflow would retry.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Decide on one failure; see :class:`airflow.sdk.RetryPolicy`."""
        code = exception.http_status_code if isinstance(exception, DatabricksApiError) else None
        if code is not None and 400 <= code < 500 and code != 429:
            return RetryDecision.fail(reason=f"Databricks refuses the request ({code})")
        return RetryDecision.default()
