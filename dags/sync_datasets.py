"""
### Sync a dataset from Databricks to Snowflake

Press *Trigger*; no field of the form needs a change. The sync exports the table to the share as Parquet, loads it into
a staging table, checks it, and publishes it in one transaction. Until then, and whenever something fails, readers see
the target as it was.

**How is it going?** While `wait_for_export` waits, Databricks works: mostly the longest step. The links on the steps
lead to the run on Databricks and to the query in Snowflake.

**How did it end?** The note of the run says it in one line: "1,461 rows from main.weather.forecasts as of 2026-01-02
09:41 UTC (version 812) in 6.2 s", that nothing is new at the source, or the failed step and the reason. All numbers are
in the XCom `return_value` of `publish`, the row of the ledger; the full report of a failure is the XCom `failure` of
`finish_sync`.

**It failed.** Fix what the note names, then press *Trigger* again, or clear the failed step: clearing `export_to_s3`
exports again, to a new path; clearing `copy_into_staging` loads the same export again; clearing `publish` of an export
that is in the ledger changes nothing. An append adds each sync once: clearing its tasks afterwards adds nothing.

**It takes long.** A second run waits until the first has ended. To stop a sync, mark its run as failed: this cancels
the work on Databricks and Snowflake too. With `sync_deadline_minutes` in the dataset file, a late sync sends an alert
and goes on.

**The fields of the form** are the conf of the run; none is required:

- `requested_by`: who requested this sync, for the ledger. Default: the Airflow user who started the run.
- `full_refresh`: export everything, also if nothing is new, and replace everything in the target, in any load mode.
- `accept_row_change`: publish although the row count changed by more than the dataset's `max_row_change_percent`.
- `dry_run`: export, load and check, but do not publish; the result of `publish` says what would change.
- `verify`: publish nothing, but compare the target with what the source held at the version that was published last.
- `reload_run_key`: load the export of this earlier sync again, without Databricks; an append also needs `full_refresh`.

**From a program**, send `POST /api/v2/dags/<this DAG>/dagRuns`; see `docs/backend.md`:

```json
{"dag_run_id": "my-own-id", "logical_date": null, "conf": {"requested_by": "ada@example.com"}}
```
"""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, AsyncCallback, BaseNotifier, chain, get_parsing_context

from data_share.dag_defaults import SHARE, SHARES, args_of, schedule_of, start_date_of
from data_share.databricks.export import DatabricksExportOperator
from data_share.databricks.follow import DatabricksRunSensor
from data_share.dataset_files import read_datasets
from data_share.datasets import Dataset
from data_share.finish import FinishSyncOperator
from data_share.invalid_dataset import InvalidDatasetDag
from data_share.outcome.webhook import WebhookNotifier, deadline_alerts
from data_share.share import Share
from data_share.snowflake.check import SnowflakeCheckOperator
from data_share.snowflake.load import SnowflakeCopyIntoOperator
from data_share.snowflake.publish import SnowflakePublishOperator
from data_share.sql_files import sql_files, sql_templates
from data_share.steps import CHECK_STAGING, COPY_INTO_STAGING, EXPORT_TO_S3, FINISH_SYNC, PUBLISH, WAIT_FOR_EXPORT
from data_share.sync_conf import PARAMS

VERIFY_DOC = """
### Verify a dataset

Starts a run of the sync's DAG with the conf `{"verify": true}`, by a schedule of its own: that run compares the target
with what the source held at the version that was published last, value by value, and changes nothing. A sync and a
verification wait for each other.

**How did it end?** See the runs of the sync's DAG: a difference fails the run there, with the code `VALUES_DIFFER`.

**To start it**, press *Trigger*, or send `POST /api/v2/dags/<this DAG>/dagRuns` with
`{"logical_date": null, "conf": {}}`; or start the sync's DAG with the conf above.
**Required conf:** none. **Optional conf:** none. **A retry** of the step starts the verification if it has not.
"""

# Any notifiers of Airflow, see docs/alerts.md; the webhook needs none. For each end that has a notifier, the
# dag-processor starts a process.
ON_SUCCESS: list[BaseNotifier] = []
ON_FAILURE: list[BaseNotifier] = []
ON_MISSED_DEADLINE: list[AsyncCallback] = []


def sync_dag(dataset: Dataset, share: Share = SHARE) -> DAG:
    """Return the DAG of one dataset."""
    export_timeout = timedelta(minutes=dataset.export_timeout_minutes)
    load_timeout = timedelta(minutes=dataset.load_timeout_minutes)
    sync_args: dict[str, Any] = {"dataset": dataset, "share": share}
    webhook = AsyncCallback(WebhookNotifier, kwargs={"conn_id": share.webhook_conn_id})
    load_args = sync_args | {
        "statement_timeout": int(load_timeout.total_seconds()),
        # An hour more: a step has one long statement and several short ones.
        "execution_timeout": load_timeout + timedelta(hours=1),
    }
    with DAG(
        dag_id=dataset.dag_id,
        description=dataset.description,
        doc_md=__doc__,
        schedule=schedule_of(dataset.schedule),
        start_date=start_date_of(dataset.schedule),
        catchup=False,
        # Two syncs of a dataset never overlap: a second run waits in the queue.
        max_active_runs=1,
        # The max. time of export, copy, check and publish, and four hours between them.
        dagrun_timeout=export_timeout + 3 * load_timeout + timedelta(hours=4),
        # Copies: a notifier keeps its rendered texts, and one process may handle the ends of several syncs.
        on_success_callback=copy.deepcopy(ON_SUCCESS) or None,
        on_failure_callback=copy.deepcopy(ON_FAILURE) or None,
        deadline=deadline_alerts(dataset, [webhook, *ON_MISSED_DEADLINE]) or None,
        default_args=args_of(dataset),
        tags=dataset.dag_tags,
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
                **dataset.source_parameters(),
            },
            # Airflow's id of the attempt: a repeated call starts no second run, and a new attempt exports again.
            idempotency_token="{{ sync.key }}-{{ ti.id }}",  # noqa: S106
            **sync_args,
        )
        wait_for_export = DatabricksRunSensor(
            task_id=WAIT_FOR_EXPORT.id,
            databricks_conn_id=share.databricks_conn_id,
            # Without map_indexes, the pull never returns in the triggerer.
            run_id=f"{{{{ ti.xcom_pull(task_ids='{EXPORT_TO_S3.id}', key='run_id', map_indexes=-1) }}}}",
            timeout_seconds=export_timeout.total_seconds(),
            # No retries: a failed Databricks run stays failed; clear export_to_s3 to export again.
            retries=0,
            execution_timeout=None,
        )
        copy_into_staging = SnowflakeCopyIntoOperator(
            task_id=COPY_INTO_STAGING.id,
            sql=sql_files(
                *("describe_target", "explain_target", "count_visible", "insert_lock_row", "copy_into_staging"),
            ),
            # reload_run_key skips the steps before.
            trigger_rule="none_failed",
            **load_args,
        )
        check_files = sql_files("check_staging")
        check_staging = SnowflakeCheckOperator(task_id=CHECK_STAGING.id, sql=check_files, **load_args)
        publish_files = sql_files(
            *("publish", "add_lock_columns", "select_lock", "select_ledger_row", "count_changes"),
            "show_staging_tables_of_run",
        )
        publish = SnowflakePublishOperator(
            task_id=PUBLISH.id,
            sql=publish_files,
            # If nothing is new at the source, copy and check are skipped, and this step says so.
            trigger_rule="none_failed",
            **load_args,
        )

        steps = [export_to_s3, wait_for_export, copy_into_staging, check_staging, publish]
        finish_sync = FinishSyncOperator(
            task_id=FINISH_SYNC.id,
            sql=sql_files("show_staging_tables_of_run", "select_ledger_row"),
            # After 10 s, 20 s, ...: in all five minutes, in which an unreachable api-server may come back.
            retries=5,
            **sync_args,
        ).as_teardown(on_failure_fail_dagrun=True)

        chain(*steps)
        # After every step, not only the last: a person may mark a later step while an earlier step still runs.
        chain(steps, finish_sync)

    # After the tasks: otherwise Airflow copies and validates the params for each task, which doubles the parse time.
    dag.params.update(copy.deepcopy(PARAMS))
    return dag


def verify_dag(dataset: Dataset) -> DAG:
    """Return the DAG that starts a verification by the schedule of its own."""
    # Only here: it takes long to import, and few datasets have such a schedule.
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

    with DAG(
        dag_id=dataset.verify_dag_id,
        description=f"Compares {dataset.target_table} with what was published to it last.",
        doc_md=VERIFY_DOC,
        schedule=schedule_of(dataset.verify_schedule),
        start_date=start_date_of(dataset.verify_schedule),
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=3),
        default_args=args_of(dataset),
        # Without the tag of a sync: notes, alerts and the page are those of the run that it starts.
        tags=["data-share", "verify", *dataset.tags],
    ) as dag:
        TriggerDagRunOperator(
            task_id="start_verification",
            trigger_dag_id=dataset.dag_id,
            # A retry finds the run that an earlier attempt has started.
            trigger_run_id="verify__{{ run_id }}",
            skip_when_already_exists=True,
            logical_date=None,
            conf={"verify": True},
            # Airflow would leave the run in the queue of a paused DAG for ever.
            fail_when_dag_is_paused=True,
        )
    return dag


needed = get_parsing_context().dag_id  # in the process of a task, its DAG; else None: the dag-processor needs all
# A task does not parse conditions again, which would cost it a third of a second.
name = needed and needed.removeprefix("verify_" if needed.startswith("verify_") else "sync_")
datasets, invalid = read_datasets(only=name, check_sql=not needed)
for dataset in datasets:
    globals()[dataset.dag_id] = sync_dag(dataset, SHARES[dataset.share])
    if dataset.verify_schedule is not None:
        globals()[dataset.verify_dag_id] = verify_dag(dataset)
for error in invalid:
    globals()[f"invalid_{error.path.stem}"] = InvalidDatasetDag(error)
