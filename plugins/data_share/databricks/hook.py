"""A hook for Databricks' Jobs API, with more retries than the provider's."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import aiohttp
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from tenacity import RetryCallState, stop_after_attempt, wait_exponential_jitter

from data_share.outcome.classify import is_certificate_error, seconds_to_wait
from data_share.outcome.metrics import count_request

TRIES = 10
"""Calls in a row that may fail before Databricks counts as unavailable."""

_FIRST_PAUSE_SECONDS = 1.0
_MAX_PAUSE_SECONDS = 30.0
_MAX_RETRY_AFTER_SECONDS = 120.0


class DataShareDatabricksHook(DatabricksHook):
    """
    The provider's hook (7.23.0), changed so that a sync survives a short outage of Databricks.

    - Each call is made up to ten times, with growing pauses, or longer ones if ``Retry-After`` asks for them; the
      provider gives up after three calls in three seconds. Every call of this package is safe to repeat: starting a
      run has an idempotency token.
    - In the triggerer, a call whose connection was lost is repeated; the provider repeats it only if the connection
      could not be made at all.
    - After an untrusted certificate, the call is not repeated.
    - Each request of a worker is counted as a metric, with the HTTP status of its answer.

    :param databricks_conn_id: Airflow connection
    :param tries: how often a call is made before it fails
    """

    def __init__(self, databricks_conn_id: str, *, tries: int = TRIES, **kwargs: Any) -> None:
        retries = {"stop": stop_after_attempt(tries), "wait": _pause}
        super().__init__(databricks_conn_id, retry_limit=tries, retry_args=retries, **kwargs)

    def _do_api_call(self, *args: Any, **kwargs: Any) -> Any:
        answer = super()._do_api_call(*args, **kwargs)
        count_request("databricks", HTTPStatus.OK)
        return answer

    @staticmethod
    def _retryable_error(exception: BaseException) -> bool:
        # The provider asks this after each request that failed.
        count_request("databricks", getattr(getattr(exception, "response", None), "status_code", None))
        if is_certificate_error(exception):
            return False
        is_lost = isinstance(exception, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError)
        return is_lost or DatabricksHook._retryable_error(exception)


def _pause(state: RetryCallState) -> float:
    """Return the seconds to wait after a failed call: a growing pause, or ``Retry-After`` if that is longer."""
    error = state.outcome.exception() if state.outcome else None
    headers = getattr(getattr(error, "response", None), "headers", None) or getattr(error, "headers", None) or {}
    requested = min(seconds_to_wait(headers.get("Retry-After")), _MAX_RETRY_AFTER_SECONDS)
    growing = wait_exponential_jitter(initial=_FIRST_PAUSE_SECONDS, max=_MAX_PAUSE_SECONDS, jitter=1)
    return max(requested, growing(state))
