"""Databricks' Jobs API, as this package calls it."""

from __future__ import annotations

from typing import Any

import aiohttp
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from tenacity import RetryCallState, stop_after_attempt, wait_exponential_jitter

from data_share.outcome.classify import is_certificate_error, seconds_to_wait

TRIES = 10
"""How often a call is made until Databricks counts as unavailable."""

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_RETRY_AFTER_SECONDS = 120.0


class DataShareDatabricksHook(DatabricksHook):
    """
    The provider's hook, without what makes a short outage the end of a sync (provider 7.23.0).

    - Each call is made up to ten times, with growing pauses, or those that ``Retry-After`` asks for; the provider makes
      three attempts within three seconds. All calls of this package may be repeated: a start has its idempotency token.
    - A connection that is lost in the triggerer is tried again; the provider tries only one that is never made.
    - A certificate that is refused is not tried again.

    :param databricks_conn_id: Airflow connection
    :param tries: how often a call is made
    """

    def __init__(self, databricks_conn_id: str, *, tries: int = TRIES, **kwargs: Any) -> None:
        patience = {"stop": stop_after_attempt(tries), "wait": _pause}
        super().__init__(databricks_conn_id, retry_limit=tries, retry_args=patience, **kwargs)

    @staticmethod
    def _retryable_error(exception: BaseException) -> bool:
        if is_certificate_error(exception):
            return False
        is_lost = isinstance(exception, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError)
        return is_lost or DatabricksHook._retryable_error(exception)


def _pause(state: RetryCallState) -> float:
    """Return how many seconds to wait after a failed call: as long as asked for, and in growing steps at least."""
    error = state.outcome.exception() if state.outcome else None
    headers = getattr(getattr(error, "response", None), "headers", None) or getattr(error, "headers", None) or {}
    asked = min(seconds_to_wait(headers.get("Retry-After")), _LONGEST_RETRY_AFTER_SECONDS)
    growing = wait_exponential_jitter(initial=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS, jitter=1)
    return max(asked, growing(state))
