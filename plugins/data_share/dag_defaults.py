"""What the DAGs have in common."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum

from data_share.outcome.classify import RetryTransientErrors, report_failure
from data_share.share import Share

SHARE = Share()
"""The names of this deployment in Databricks, S3, Snowflake and Airflow; each step receives it as an argument."""

START_DATE = pendulum.datetime(2026, 1, 1, tz="UTC")

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "data-share",
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=5),
    "retry_policy": RetryTransientErrors(),
    # Long enough to load many files.
    "execution_timeout": timedelta(hours=2),
    "on_failure_callback": report_failure,
}
