"""
### Clean up what old syncs left behind

Drops staging tables of runs that are older than `keep_days`. A sync drops its own staging tables; older ones are left
only if the last step of their sync could not drop them. Also reports the exports in the ledger that are older than
`keep_days`. It deletes no file, because Snowflake's role may not delete in the bucket; a lifecycle rule on the share's
prefix does, see the README.

**To start it**, press *Trigger*, or send `POST /api/v2/dags/clean_up_share/dagRuns` with
`{"logical_date": null, "conf": {"keep_days": 7}}`. It also runs every day. Each further share of
`include/share.yaml` has a DAG of its own: `clean_up_share_<share>`.

**Required conf:** none. **Optional conf:** `keep_days`, the min. age in days of old tables and exports.

**The answer** is the XCom `return_value` of `clean_up`. **A retry** of the step repeats it.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from data_share.dag_defaults import DEFAULT_ARGS, SHARES, START_DATE, dag_id_of
from data_share.snowflake.clean_up import SnowflakeCleanUpOperator
from data_share.sql_files import sql_templates

for share in SHARES.values():
    with DAG(
        dag_id=dag_id_of("clean_up_share", share),
        description="Drops the staging tables of old runs and reports old exports.",
        doc_md=__doc__,
        schedule="@daily",
        start_date=START_DATE,
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
        tags=["data-share", "housekeeping"],
        **sql_templates(share),
    ):
        SnowflakeCleanUpOperator(
            task_id="clean_up",
            share=share,
            sql="show_staging_tables.sql",
            select_old_exports="select_old_exports.sql",
        )
