"""
### Sync a dataset from Databricks to Snowflake

Press *Trigger*; every field of the form may stay as it is. The table is exported to the share as Parquet, loaded beside
the target, checked, and made visible in one step. Until then, and whenever something fails, everybody sees the target
as it was.

**How is it going?** `wait_for_export` is where Databricks works: mostly the longest step. The links on the steps lead
to the run on Databricks and to the query in Snowflake.

**How did it end?** The note of the run says so in one line: "1,461 rows from main.weather.forecasts in 6.2 s", or the
step that failed, and why. All numbers are in the XCom `return_value` of `publish`, the row of the ledger
`sync_history`; a failure in full is the XCom `failure` of `finish_sync`.

**It failed.** Mend what the note names, then press *Trigger* again, or clear the failed step: clearing `export_to_s3`
exports again, to a new path; clearing `copy_into_staging` loads the same export again; clearing `publish` of an export
that is in the ledger changes nothing. An append counts each sync once: clearing its tasks afterwards adds nothing.

**It takes long.** A second press waits behind the first. To stop a sync, mark its run as failed: Databricks and
Snowflake are told to stop. With `sync_deadline_minutes` in the dataset file, a sync that is late raises an alert and
goes on.

**The fields of the form**, none of which is required; they are the conf of the run:

- `requested_by`: who wants this sync; it is kept in the ledger. Without it, that is the user of Airflow who started it.
- `full_refresh`: replace everything in the target, whatever the dataset's load mode is.
- `accept_row_change`: publish also when the source has far more or fewer rows than at the last sync.
- `dry_run`: do everything but publish; the result of `publish` says what would change.
- `reload_run_key`: load the export of this earlier sync again; Databricks is not asked. An append refuses an export
  that it has counted: it needs `full_refresh` too.

**From a program**, send `POST /api/v2/dags/<this DAG>/dagRuns`; `docs/backend.md` has the rest:

```json
{"dag_run_id": "my-own-id", "logical_date": null, "conf": {"requested_by": "ada@example.com"}}
```
"""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, AsyncCallback, chain

from data_share.dag_defaults import DEFAULT_ARGS, SHARE, START_DATE
from data_share.databricks.export import DatabricksExportOperator
from data_share.databricks.follow import DatabricksRunSensor
from data_share.dataset_files import InvalidDatasetDag, read_datasets
from data_share.datasets import Dataset
from data_share.finish import FinishSyncOperator
from data_share.outcome.webhook import WebhookNotifier, deadline_alerts
from data_share.share import Share
from data_share.snowflake.check import SnowflakeCheckOperator
from data_share.snowflake.load import SnowflakeCopyIntoOperator
from data_share.snowflake.publish import SnowflakePublishOperator
from data_share.sql_files import sql_files, sql_templates
from data_share.steps import CHECK_STAGING, COPY_INTO_STAGING, EXPORT_TO_S3, FINISH_SYNC, PUBLISH, WAIT_FOR_EXPORT
from data_share.sync_conf import PARAMS

# Who is told: any notifiers of Airflow, see docs/alerts.md. This one does nothing without its connection.
ON_SUCCESS = [WebhookNotifier(SHARE.webhook_conn_id)]
ON_FAILURE = [WebhookNotifier(SHARE.webhook_conn_id)]
ON_MISSED_DEADLINE = [AsyncCallback(WebhookNotifier, kwargs={"conn_id": SHARE.webhook_conn_id})]


def sync_dag(dataset: Dataset, share: Share = SHARE) -> DAG:
    """Return the DAG of one dataset."""
    export_timeout = timedelta(minutes=dataset.export_timeout_minutes)
    load_timeout = timedelta(minutes=dataset.load_timeout_minutes)
    of_sync: dict[str, Any] = {"dataset": dataset, "share": share}
    # A step has one long statement, and several short ones.
    loading = of_sync | {
        "statement_timeout": int(load_timeout.total_seconds()),
        "execution_timeout": load_timeout + timedelta(hours=1),
    }
    with DAG(
        dag_id=dataset.dag_id,
        description=dataset.description,
        doc_md=__doc__,
        schedule=dataset.schedule,
        start_date=START_DATE,
        catchup=False,
        # A second press queues behind the first; two syncs of a dataset never overlap.
        max_active_runs=1,
        # Export, copy, check and publish, each at its longest, and the time between them.
        dagrun_timeout=export_timeout + 3 * load_timeout + timedelta(hours=4),
        # Copies: a notifier keeps the text that it renders, and several syncs may end in one process.
        on_success_callback=copy.deepcopy(ON_SUCCESS),
        on_failure_callback=copy.deepcopy(ON_FAILURE),
        deadline=deadline_alerts(dataset, ON_MISSED_DEADLINE) or None,
        default_args=DEFAULT_ARGS,
        tags=["data-share", "sync"],
        **sql_templates(share),
    ) as dag:
        export_to_s3 = DatabricksExportOperator(
            task_id=EXPORT_TO_S3.id,
            known_conf=tuple(PARAMS),
            job_id=f"{{{{ var.value.{share.export_job_variable} }}}}",
            job_parameters={
                "dataset": dataset.name,
                "source_table": dataset.source_table,
                "run_key": "{{ sync.key }}",
                "export_path": "{{ sync.new_export_path }}",
                "proof": dataset.proof_of_values.value,
            },
            # By Airflow's id of the attempt: a repeated call starts nothing twice, and a new attempt exports again.
            idempotency_token="{{ sync.key }}-{{ ti.id }}",  # noqa: S106
            **of_sync,
        )
        wait_for_export = DatabricksRunSensor(
            task_id=WAIT_FOR_EXPORT.id,
            databricks_conn_id=share.databricks_conn_id,
            # map_indexes must be given: without it, the pull never returns in the triggerer.
            run_id=f"{{{{ ti.xcom_pull(task_ids='{EXPORT_TO_S3.id}', key='run_id', map_indexes=-1) }}}}",
            timeout_seconds=export_timeout.total_seconds(),
            # Another look at an export that failed would find it failed: a new export is a new attempt of export_to_s3.
            retries=0,
            execution_timeout=None,
        )
        copy_into_staging = SnowflakeCopyIntoOperator(
            task_id=COPY_INTO_STAGING.id,
            sql=sql_files(
                *("select_lock", "create_lock", "describe_target", "explain_target", "count_visible"),
                *("create_staging_manifest", "describe_staging_manifest", "copy_manifest", "select_manifest"),
                "copy_into_staging",
            ),
            # The steps before are skipped when an earlier export is loaded again.
            trigger_rule="none_failed",
            **loading,
        )
        check_staging = SnowflakeCheckOperator(
            task_id=CHECK_STAGING.id, sql=sql_files("check_staging", "check_values"), **loading
        )
        publish = SnowflakePublishOperator(
            task_id=PUBLISH.id, sql=sql_files("publish", "select_lock", "select_ledger_row", "count_changes"), **loading
        )

        steps = [export_to_s3, wait_for_export, copy_into_staging, check_staging, publish]
        finish_sync = FinishSyncOperator(
            task_id=FINISH_SYNC.id,
            sql=sql_files("show_staging_tables_of_run", "select_ledger_row"),
            # Ten seconds, twenty, ...: for five minutes, also where a process gives an api-server up that is away.
            retries=5,
            **of_sync,
        ).as_teardown(on_failure_fail_dagrun=True)

        chain(*steps)
        # After each of them, not the last alone: a person may mark a later step while an earlier one works.
        chain(steps, finish_sync)

    # Last, because Airflow would copy and validate them anew for each task: half of the time to parse the DAG.
    dag.params.update(copy.deepcopy(PARAMS))
    return dag


datasets, invalid = read_datasets(share=SHARE)
for dataset in datasets:
    globals()[dataset.dag_id] = sync_dag(dataset)
for error in invalid:
    globals()[f"invalid_{error.path.stem}"] = InvalidDatasetDag(error)
