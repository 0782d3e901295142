"""What the DAGs have in common."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum

from data_share.datasets import Dataset
from data_share.outcome.classify import RetryTransientErrors, report_failure
from data_share.schedules import AssetSchedule, CronSchedule, Schedule
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


def schedule_of(schedule: Schedule) -> Any:
    """Return a schedule of a dataset file as Airflow takes it."""
    match schedule:
        case CronSchedule(cron=cron):
            return cron
        case AssetSchedule() as updates:
            return updates.reference()
        case times:
            return times


def start_date_of(schedule: Schedule) -> pendulum.DateTime:
    """
    Return the start date of a DAG with a schedule of a dataset file.

    Airflow reads a cron expression in the time zone of the start date. So its setting ``create_cron_data_intervals``
    decides what kind of timetable it makes of the expression, in each time zone alike.
    """
    return START_DATE.in_timezone(schedule.time_zone) if isinstance(schedule, CronSchedule) else START_DATE


def args_of(dataset: Dataset) -> dict[str, Any]:
    """Return the default arguments of the steps, with those of the dataset's file."""
    own = {"owner": dataset.owner, "retries": dataset.retries}
    return {**DEFAULT_ARGS, **{name: value for name, value in own.items() if value is not None}}
