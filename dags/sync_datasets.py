"""
### Sync a dataset from Databricks to Snowflake

Exports the source table to the share as Parquet, loads it into a staging table, checks it, and makes it visible in one
transaction. The target never shows rows that did not pass the checks, and never half a load.

**To start it**, press *Trigger*, or send `POST /api/v2/dags/<this DAG>/dagRuns`:

```json
{"dag_run_id": "my-own-id", "logical_date": null, "conf": {"requested_by": "ada@example.com"}}
```

**Required conf:** none. **Optional conf:** `requested_by`, who wants this sync; it is kept in the ledger.

**The answer** is the XCom `return_value` of `publish`: the row of the ledger `sync_history`. When a step fails, its
XCom `failure` says why, and the target is as it was.

**A retry** of a step repeats that step. Clearing `export_to_s3` exports again, to a new path; clearing
`copy_into_staging` loads the same export again; clearing `publish` of an export that is in the ledger changes nothing.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.providers.databricks.operators.databricks import DatabricksRunNowOperator
from airflow.sdk import DAG, Param

from data_share.databricks_run import DatabricksRunSensor
from data_share.datasets import Dataset, InvalidDatasetDag, read_datasets
from data_share.failures import RetryTransientErrors, report_failure
from data_share.share import EXPORT_JOB_VARIABLE
from data_share.snowflake_operators import (
    SnowflakeCopyIntoOperator,
    SnowflakePublishOperator,
    SnowflakeStatementsOperator,
    SnowflakeTableCheckOperator,
)
from data_share.templates import SQL_FILTERS, sync_macros

SQL_FOLDER = Path(__file__).resolve().parents[1] / "include" / "sql" / "snowflake"

DEFAULT_ARGS = {
    "owner": "data-share",
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=5),
    "retry_policy": RetryTransientErrors(),
    "execution_timeout": timedelta(hours=2),
    "on_failure_callback": report_failure,
}

PARAMS = {
    "requested_by": Param(
        default=None,
        type=["null", "string"],
        title="Requested by",
        description="Who wants this sync: a user name or an e-mail address. It is kept in the ledger.",
        # For Python, $ alone would also match before a line break at the end.
        pattern=r"^[A-Za-z0-9_.@+\- ]{1,100}(?!\n)$",
    ),
}


def sync_dag(dataset: Dataset) -> DAG:
    """Return the DAG of one dataset."""
    export_timeout = timedelta(minutes=dataset.export_timeout_minutes)
    with DAG(
        dag_id=dataset.dag_id,
        description=dataset.description,
        doc_md=__doc__,
        schedule=dataset.schedule,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        catchup=False,
        # A second press queues behind the first; two syncs of a dataset never overlap.
        max_active_runs=1,
        dagrun_timeout=export_timeout + timedelta(hours=6),
        default_args=DEFAULT_ARGS,
        params=PARAMS,
        template_searchpath=[str(SQL_FOLDER)],
        user_defined_macros=sync_macros(dataset),
        user_defined_filters=SQL_FILTERS,
        tags=["data-share", "sync"],
    ) as dag:
        export_to_s3 = DatabricksRunNowOperator(
            task_id="export_to_s3",
            job_id=f"{{{{ var.value.{EXPORT_JOB_VARIABLE} }}}}",
            job_parameters={
                "dataset": dataset.name,
                "source_table": dataset.source_table,
                "run_key": "{{ run_key(dag_run) }}",
                "export_path": "{{ export_path(dag_run, ti.try_number) }}",
            },
            # Per attempt: a repeated call starts nothing twice, and a new attempt starts a new export.
            idempotency_token="{{ run_key(dag_run) }}-{{ ti.try_number }}",  # noqa: S106
            wait_for_termination=False,
            # The default would take up the run of an earlier attempt, with its old data.
            durable=False,
            forward_dag_params=False,
        )

        wait_for_export = DatabricksRunSensor(
            task_id="wait_for_export",
            # map_indexes must be given: without it, the pull never returns in the triggerer.
            run_id="{{ ti.xcom_pull(task_ids='export_to_s3', key='run_id', map_indexes=-1) }}",
            timeout_seconds=export_timeout.total_seconds(),
            # Another look at an export that failed would find it failed: a new export is a new attempt of export_to_s3.
            retries=0,
            execution_timeout=None,
        )

        copy_into_staging = SnowflakeCopyIntoOperator(
            task_id="copy_into_staging",
            create_staging="create_staging_tables.sql",
            copy_manifest="copy_manifest.sql",
            select_manifest="select_manifest.sql",
            sql="copy_into_staging.sql",
            dataset=dataset.name,
            run_key="{{ run_key(dag_run) }}",
            allow_empty=dataset.allow_empty,
        )

        check_staging = SnowflakeTableCheckOperator(
            task_id="check_staging",
            table="{{ staging_table(dag_run) }}",
            checks={
                "rows_match_manifest": "COUNT(*) = (SELECT SUM(row_count) FROM {{ staging_manifest(dag_run) }})",
                **{f"{column}_not_null": f"{column} IS NOT NULL" for column in dataset.required_columns},
                **dataset.checks,
            },
            sql="check_staging.sql",
        )

        publish = SnowflakePublishOperator(
            task_id="publish",
            sql=f"publish_{dataset.load_mode}.sql",
            select_ledger_row="select_ledger_row.sql",
            run_key="{{ run_key(dag_run) }}",
            export_path="{{ ti.xcom_pull(task_ids='wait_for_export')['export_path'] }}",
        )

        drop_staging = SnowflakeStatementsOperator(
            task_id="drop_staging",
            sql="drop_staging_tables.sql",
        ).as_teardown()

        export_to_s3 >> wait_for_export >> copy_into_staging >> check_staging >> publish >> drop_staging
    return dag


datasets, invalid = read_datasets()
for dataset in datasets:
    globals()[dataset.dag_id] = sync_dag(dataset)
for error in invalid:
    globals()[f"invalid_{error.path.stem}"] = InvalidDatasetDag(error)
