"""What the DAGs have in common."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum

from data_share.outcome.classify import RetryTransientErrors, report_failure
from data_share.share import Share, shares
from data_share.share_file import DEFAULT

SHARES = shares()
"""The names of this deployment in Databricks, S3, Snowflake and Airflow, by share; each step receives its share."""

SHARE = SHARES[DEFAULT]
"""The share of the datasets that name none."""


def dag_id_of(name: str, share: Share) -> str:
    """Return the id of a DAG that each share has; that of the default share is the name alone."""
    return name if share.name == DEFAULT else f"{name}_{share.name}"


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
