"""
### Set up Snowflake for the data share

Creates what the syncs need and what does not exist yet: the staging schema, the stage on the share, the ledger, and the
targets that have a file in `include/sql/snowflake/targets/` or belong to a dataset with `create_table: from_columns`.
Safe to run again at any time: it changes and drops nothing that exists. The task `check_targets` fails when another
dataset, perhaps of another Airflow, publishes to one of the targets.

**To start it**, press *Trigger*, or send `POST /api/v2/dags/set_up_snowflake/dagRuns` with
`{"logical_date": null, "conf": {}}`. There is no conf. Each further share of `include/share.yaml` has a DAG of its own:
`set_up_snowflake_<share>`.

**Before it**, an account administrator creates the storage integration, once.

**A retry** of a step repeats that step. `create_target` has a task for each target: if one target cannot be created,
the others still are.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, chain, task

from data_share.dag_defaults import DEFAULT_ARGS, SHARES, START_DATE, dag_id_of
from data_share.dataset_files import read_datasets
from data_share.share import Share
from data_share.snowflake.set_up import (
    SnowflakeCreateTargetOperator,
    SnowflakeTargetsCheckOperator,
    target_files,
)
from data_share.snowflake.statements import SnowflakeStatementsOperator
from data_share.sql_files import sql_templates

DATASETS = read_datasets()[0]


def set_up_dag(share: Share) -> DAG:
    """Return the DAG that sets up a share."""
    datasets = {dataset.name: dataset for dataset in DATASETS if dataset.share == share.name}
    with DAG(
        dag_id=dag_id_of("set_up_snowflake", share),
        description="Creates what the syncs need in Snowflake; safe to run again.",
        doc_md=__doc__,
        schedule=None,
        start_date=START_DATE,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=1),
        default_args={**DEFAULT_ARGS, "execution_timeout": timedelta(minutes=15)},
        tags=["data-share", "set-up"],
        **sql_templates(share, datasets=datasets),
    ) as dag:
        create_schemas = SnowflakeStatementsOperator(task_id="create_schemas", share=share, sql="create_schemas.sql")
        create_stage = SnowflakeStatementsOperator(task_id="create_stage", share=share, sql="create_stage.sql")
        create_ledger = SnowflakeStatementsOperator(task_id="create_ledger", share=share, sql="create_ledger.sql")
        check_targets = SnowflakeTargetsCheckOperator(
            task_id="check_targets", share=share, datasets=list(datasets.values())
        )

        @task
        def list_targets() -> list[str]:
            """Return what creates targets: files, datasets. A task: Airflow's copy of the DAG may be outdated."""
            files = [f"targets/{name}" for name in target_files(DATASETS, share)]
            return [*files, *(name for name, dataset in datasets.items() if dataset.create_table == "from_columns")]

        targets = list_targets()
        create_target = SnowflakeCreateTargetOperator.partial(
            task_id="create_target", share=share, sql="create_target.sql", map_index_template="{{ task.target }}"
        ).expand(target=targets)

        chain(create_schemas, create_stage, create_ledger, targets, create_target)
        # Not before create_target: a target that belongs to another dataset must not stop the creation of the others.
        chain(create_ledger, check_targets)
    return dag


for share in SHARES.values():
    dag = set_up_dag(share)
    globals()[dag.dag_id] = dag
