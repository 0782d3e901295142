"""
### Clean up what old syncs left behind

Drops the staging tables of runs that are older than `keep_days`: a sync drops its own, so these are of runs whose
last step could not do it. Reports the exports in the ledger that are older than that. It deletes no file, because
Snowflake's role on the bucket may not; a lifecycle rule on the share's prefix does, see the README.

**To start it**, press *Trigger*, or send `POST /api/v2/dags/clean_up_share/dagRuns` with
`{"logical_date": null, "conf": {"keep_days": 7}}`. It also runs every day.

**Required conf:** none. **Optional conf:** `keep_days`, the age in days from which things count as old.

**The answer** is the XCom `return_value` of `clean_up`. **A retry** of the step repeats it.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.sdk import DAG, Param

from data_share import share
from data_share.failures import report_failure
from data_share.snowflake_operators import SnowflakeCleanUpOperator

SQL_FOLDER = Path(__file__).resolve().parents[1] / "include" / "sql" / "snowflake"

DEFAULT_ARGS = {
    "owner": "data-share",
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=5),
    "execution_timeout": timedelta(hours=1),
    "on_failure_callback": report_failure,
}

with DAG(
    dag_id="clean_up_share",
    description="Drops the staging tables of old runs and reports old exports.",
    doc_md=__doc__,
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=3),
    default_args=DEFAULT_ARGS,
    params={
        "keep_days": Param(
            default=7,
            type="integer",
            # A sync may take longer than a day.
            minimum=2,
            maximum=3650,
            title="Days to keep",
            description="Staging tables and exports of syncs older than this many days count as old.",
        ),
    },
    template_searchpath=[str(SQL_FOLDER)],
    user_defined_macros={"share": share},
    tags=["data-share", "housekeeping"],
):
    SnowflakeCleanUpOperator(
        task_id="clean_up",
        sql="show_staging_tables.sql",
        select_old_exports="select_old_exports.sql",
        keep_days="{{ params.keep_days }}",
    )
