"""
### Sync a dataset from Databricks to Snowflake

Press *Trigger*; every field of the form may stay as it is. The table is exported to the share as Parquet, loaded beside
the target, checked, and made visible in one step. Until then, and whenever something fails, everybody sees the target
as it was.

**How is it going?** `wait_for_export` is where Databricks works: mostly the longest step. The links on the steps lead
to the run on Databricks and to the query in Snowflake.

**How did it end?** The note of the run says so in one line: "1,461 rows from main.weather.forecasts in 6.2 s", or the
step that failed, and why. All numbers are in the XCom `return_value` of `publish`, the row of the ledger
`sync_history`; a failure in full is the XCom `failure` of `drop_staging`.

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

from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference, Param, chain, literal

from data_share.alerts import WebhookNotifier
from data_share.dag_defaults import DEFAULT_ARGS, SQL_FOLDER, START_DATE
from data_share.databricks_run import DatabricksRunSensor
from data_share.datasets import Dataset, InvalidDatasetDag, read_datasets
from data_share.export import DatabricksExportOperator
from data_share.finish import FinishSyncOperator
from data_share.names import shown, written
from data_share.share import EXPORT_JOB_VARIABLE, LEDGER_TABLE
from data_share.snowflake_operators import (
    SnowflakeCopyIntoOperator,
    SnowflakePublishOperator,
    SnowflakeTableCheckOperator,
)
from data_share.templates import SQL_FILTERS, sync_macros

# Who is told: any notifiers of Airflow, see docs/alerts.md. This one does nothing without its connection.
ON_SUCCESS = [WebhookNotifier()]
ON_FAILURE = [WebhookNotifier()]
ON_MISSED_DEADLINE = [AsyncCallback(WebhookNotifier)]

# What was exported is what was loaded: the manifest, the answer of COPY INTO and the staging table agree. What COPY
# INTO has answered is compared beside the rows, so that one failed step names all that differs; with COUNT(*), a
# condition is about the table, also when it is empty.
RECONCILIATION = {
    "rows_match_manifest": "COUNT(*) = {{ copied(ti).rows_exported }}",
    "rows_parsed_match_manifest": "COUNT(*) >= 0 AND {{ copied(ti).rows_parsed }} = {{ copied(ti).rows_exported }}",
    "rows_loaded_match_manifest": "COUNT(*) >= 0 AND {{ copied(ti).rows_loaded }} = {{ copied(ti).rows_exported }}",
    "files_match_manifest": "COUNT(*) >= 0 AND {{ copied(ti).files }} = {{ copied(ti).files_exported }}",
}

# A name as people and directories write it: no end of a line, nothing that cannot be seen or turns the text around, no
# half of a character. It means the same in Python, which judges, and in JavaScript.
PERSON = r"^(?!\s*$)[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{1,100}(?!\n)$"

PARAMS = {
    "requested_by": Param(
        default=None,
        type=["null", "string"],
        title="Requested by",
        description="Who wants this sync, for the ledger: a name or an e-mail address. Empty: whoever starts it here.",
        pattern=PERSON,
    ),
    "full_refresh": Param(
        default=False,
        type="boolean",
        title="Full refresh",
        description="Replace everything in the target, whatever the dataset's load mode is.",
    ),
    "accept_row_change": Param(
        default=False,
        type="boolean",
        title="Accept the change of the row count",
        description="Publish this time, also when the source has far more or fewer rows than at the last sync.",
    ),
    "dry_run": Param(
        default=False,
        type="boolean",
        title="Dry run",
        description="Do everything but publish. The result of the step publish says what would change.",
    ),
    "reload_run_key": Param(
        default=None,
        type=["null", "string"],
        title="Load an earlier export again",
        description="Run key of an earlier sync, from the ledger. Its export is loaded; Databricks is not asked. "
        "A dataset that appends needs a full refresh for it.",
        pattern=r"^[0-9]{8}T[0-9]{6}_[0-9a-f]{8}(?!\n)$",
    ),
}


def row_change_check(dataset: Dataset) -> dict[str, str]:
    """Return the check against the row count of the last sync; when there was none, or it had no rows, it passes."""
    if dataset.max_row_change_percent is None:
        return {}
    # The name is validated: it holds letters, digits and underscores. After a sync without rows, any number is right:
    # no percentage leads away from nothing.
    last = (
        f"(SELECT NULLIF(MAX_BY(rows_exported, published_at), 0) FROM {LEDGER_TABLE} WHERE dataset = '{dataset.name}')"  # noqa: S608
    )
    change = f"ABS(COUNT(*) - {last}) * 100 <= {dataset.max_row_change_percent} * {last}"
    return {
        "row_change_acceptable": "{% if params.accept_row_change %}COUNT(*) >= 0{% else %}"
        f"COALESCE({change}, TRUE)"
        "{% endif %}"
    }


def advice_for_checks(dataset: Dataset) -> dict[str, str]:
    """Return what helps when a check fails, by its name; the checks in the dataset file have no advice of their own."""
    return {
        **dict.fromkeys(
            RECONCILIATION,
            "Files of the export were lost, added or changed on the share: find out who else writes to the bucket, and "
            "start a new sync, without reload_run_key.",
        ),
        "values_match_manifest": "Other values were loaded than exported, or the staging table was changed: start the "
        "sync again. If it comes again, give the target's column a type that holds the source's values "
        "(docs/datasets.md, Types), or list the column in casts of the dataset file if the change is wanted. If a "
        "masking policy changes it, exempt the role of the syncs (docs/datasets.md, Policies).",
        "row_change_acceptable": "If the source is right, start the sync again with accept_row_change: true.",
        **{
            f"{shown(column)}_not_null": f"Correct the source, or take {written(column)} out of required_columns in "
            "the dataset file; then start the sync again."
            for column in dataset.required_columns
        },
        **dict.fromkeys(
            ("merge_keys_unique", *(f"{shown(key)}_not_null" for key in dataset.merge_keys)),
            "Correct the source, or the merge_keys in the dataset file; then start the sync again.",
        ),
    }


def deadline_alerts(dataset: Dataset) -> list[DeadlineAlert]:
    """Return the alerts on a sync that takes too long, the time in the queue included; without a deadline, none."""
    if dataset.sync_deadline_minutes is None:
        return []
    interval = timedelta(minutes=dataset.sync_deadline_minutes)
    return [DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, interval, callback) for callback in ON_MISSED_DEADLINE]


def sync_dag(dataset: Dataset) -> DAG:
    """Return the DAG of one dataset."""
    export_timeout = timedelta(minutes=dataset.export_timeout_minutes)
    load_timeout = timedelta(minutes=dataset.load_timeout_minutes)
    # A step has one long statement, and several short ones.
    loading: dict[str, Any] = {
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
        deadline=deadline_alerts(dataset) or None,
        default_args=DEFAULT_ARGS,
        template_searchpath=[str(SQL_FOLDER)],
        user_defined_macros=sync_macros(dataset),
        user_defined_filters=SQL_FILTERS,
        tags=["data-share", "sync"],
    ) as dag:
        export_to_s3 = DatabricksExportOperator(
            task_id="export_to_s3",
            reload_run_key="{{ params.reload_run_key or '' }}",
            select_ledger_row="select_ledger_row.sql",
            known_conf=tuple(PARAMS),
            job_id=f"{{{{ var.value.{EXPORT_JOB_VARIABLE} }}}}",
            job_parameters={
                "dataset": dataset.name,
                "source_table": dataset.source_table,
                "run_key": "{{ run_key(dag_run) }}",
                "export_path": "{{ export_path(dag_run, ti) }}",
                "proof": dataset.proof_of_values.value,
            },
            # Airflow's id of the attempt: a repeated call starts nothing twice, and a new attempt starts a new export,
            # also that of a run which was deleted and made again.
            idempotency_token="{{ run_key(dag_run) }}-{{ ti.id }}",  # noqa: S106
            wait_for_termination=False,
            # Whatever Airflow's default is: the start is one request.
            deferrable=False,
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
            select_lock="select_lock.sql",
            create_lock="create_lock.sql",
            create_staging="create_staging_manifest.sql",
            copy_manifest="copy_manifest.sql",
            select_manifest="select_manifest.sql",
            describe_target="describe_target.sql",
            explain_target="explain_target.sql",
            count_visible="count_visible.sql",
            sql="copy_into_staging.sql",
            dataset=dataset,
            run_key="{{ manifest_run_key(ti, dag_run, params) }}",
            export_path="{{ export(ti).export_path }}",
            staging_table="{{ new_staging_table(dag_run, ti) }}",
            staging_manifest="{{ new_staging_manifest(dag_run, ti) }}",
            # The steps before are skipped when an earlier export is loaded again.
            trigger_rule="none_failed",
            **loading,
        )

        check_staging = SnowflakeTableCheckOperator(
            task_id="check_staging",
            table="{{ staging_table(ti) }}",
            checks={
                **RECONCILIATION,
                **row_change_check(dataset),
                # These are SQL and no templates: braces in them are the dataset's own.
                **{name: literal(condition) for name, condition in dataset.all_checks.items()},
            },
            what_to_do=advice_for_checks(dataset),
            sql="check_staging.sql",
            values_sql="check_values.sql",
            # What a copy step of an older version has left lacks these.
            proofs="{{ copied(ti).proofs | default([]) | tojson }}",
            unproven="{{ copied(ti).unproven | default({}) | tojson }}",
            **loading,
        )

        publish = SnowflakePublishOperator(
            task_id="publish",
            sql="publish.sql",
            select_lock="select_lock.sql",
            select_ledger_row="select_ledger_row.sql",
            count_changes="count_changes.sql",
            dataset=dataset,
            run_key="{{ run_key(dag_run) }}",
            export_path="{{ export(ti).export_path }}",
            load_mode="{{ load_mode(params) }}",
            staged_at="{{ copied(ti).staged_at }}",
            new_columns="{{ copied(ti).new_columns | tojson }}",
            # What a copy step of an older version has left lacks them.
            created_columns="{{ copied(ti).created_columns | default({}) | tojson }}",
            preview="{{ params.dry_run }}",
            **loading,
        )

        steps = [export_to_s3, wait_for_export, copy_into_staging, check_staging, publish]
        drop_staging = FinishSyncOperator(
            task_id="drop_staging",
            sql="show_staging_tables_of_run.sql",
            target_table=dataset.target_table,
            select_ledger_row="select_ledger_row.sql",
            steps=[step.task_id for step in steps],
            # Ten seconds, twenty, ...: for five minutes, also where a process gives an api-server up that is away.
            retries=5,
        ).as_teardown(on_failure_fail_dagrun=True)

        chain(*steps)
        # After each of them, not the last alone: a person may mark a later step while an earlier one works.
        chain(steps, drop_staging)

    # Last, because Airflow would copy and validate them anew for each task: half of the time to parse the DAG.
    dag.params.update(copy.deepcopy(PARAMS))
    return dag


datasets, invalid = read_datasets()
for dataset in datasets:
    globals()[dataset.dag_id] = sync_dag(dataset)
for error in invalid:
    globals()[f"invalid_{error.path.stem}"] = InvalidDatasetDag(error)
